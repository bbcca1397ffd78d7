"""Cases 59 to 84: Parquet files, row groups and rows that are spoilt, before the programs that read a source."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.bad_input import pages
from benchmarks.bad_input.case import Case, Done, Room, within_memory
from benchmarks.bad_input.grids import Make, on_the_lab
from benchmarks.bad_input.lab import GRID

UNREADABLE = 20 + (len(pages.ROW_GROUPS) - 1) * 2 * pages.GOOD  # each spoils all of them but the last, which has 20


def reading(program: str, *spoilt: tuple[str, pages.Spoil], policy: str = "refuse", beside: bool = False) -> Make:
    """A program on a source of one good file, a.parquet, and these beside it, by name."""

    def make(room: Room) -> list[str]:
        table = pages.good_pages(room.lab.storage)
        folder = room.storage / "pages"
        pages.write_pages(folder / "a.parquet", table)
        for name, spoil in spoilt:
            spoil(folder / f"{name}.parquet", table)
        for name in pages.BESIDE if beside else ():
            (folder / name).write_text("no Parquet")
        config = room.write("grid.yaml", yaml.safe_dump(GRID | {"source": "pages", "on_bad_file": policy}))
        return [*program.split(), str(config), f"storage={room.storage}"]

    return make


def everything(program: str) -> Make:
    """All that can be left out, at once, before a program that is told to leave it out."""
    spoilt = [(name, spoil) for name, (_, spoil, _) in (pages.FILES | pages.ROW_GROUPS).items()]
    spoilt += [("utf8", pages.broken_utf8), ("rows", pages.odd_rows), ("both", pages.of_both)]
    spoilt += [("expanding", pages.expanding), ("groups", pages.many_row_groups)]

    def make(room: Room) -> list[str]:
        return reading(program, *spoilt, ("objects", pages.objects(room.canary)), policy="skip", beside=True)(room)

    return make


def all_named(skipped: dict[str, str]) -> None:
    """Every bad file and row group, and nothing else, is named with what is wrong with it."""
    wanted = {f"{name}.parquet": problem for name, (_, _, problem) in pages.FILES.items()}
    wanted |= {f"{name}.parquet, row groups 0 to 0": problem for name, (_, _, problem) in pages.ROW_GROUPS.items()}
    assert skipped.keys() == wanted.keys(), f"skipped: {sorted(skipped.keys() ^ wanted.keys())}"
    for name, problem in wanted.items():
        assert problem in skipped[name], f"of {name} it says {skipped[name]}"


def extracted(room: Room, done: Done) -> None:
    """What the manifest of the food corpus counts, and that what is good is in it."""
    (folder,) = (path for path in (room.storage / "data" / "corpora").glob("food-*") if path.is_dir())
    manifest = json.loads((folder / "manifest.json").read_text())
    all_named(manifest["source"]["skipped"])
    rejects, wanted = manifest["rejects"], {"bad_utf8": 2, "unreadable": UNREADABLE}
    for _, _, reason in pages.ROWS.values():
        wanted |= {reason: wanted.get(reason, 0) + 1} if reason else {}
    wanted["too_long"] += 200  # of the file that expands
    found = {reason: rejects.get(reason, 0) for reason in wanted}
    assert found == wanted, f"rejected: {found}; wanted: {wanted}"
    kept = pa.concat_tables(pq.read_table(path, columns=["id", "text", "url"]) for path in folder.rglob("part-*"))
    kept.validate(full=True)
    good = pages.good_pages(room.lab.storage).slice(0, pages.GOOD)
    assert {*good["id"].to_pylist()} <= {*kept["id"].to_pylist()}, "good pages are lost"
    assert rejects["several_corpora"] and "<urn:uuid:79-0>" not in kept["id"].to_pylist(), "a page of both is kept"
    assert kept["id"].to_pylist().count("<urn:uuid:0-0>") == 2, "of two pages of one id one is lost"
    stay = sum(not reason for _, _, reason in pages.ROWS.values())
    odd = [name for name in kept["id"].to_pylist() if name.startswith("<urn:uuid:0-")]
    assert len(odd) == 1 + stay, f"of odd pages stay {len(odd)}; wanted: {1 + stay}"


def indexed(room: Room, done: Done) -> None:
    """What the manifest of the index counts: it reads no text."""
    (path,) = (room.storage / "data" / "index").glob("*/manifest.json")
    manifest = json.loads(path.read_text())
    all_named(manifest["skipped"])
    counts = manifest["counts"]
    wanted = {"no_url": 2, "no_host": 2, "bad_utf8": 1, "unreadable": UNREADABLE}  # no UTF-8 is no address
    found = {name: counts.get(name, 0) for name in wanted}
    assert found == wanted, f"counted: {found}; wanted: {wanted}"
    rows = 2 * pages.GOOD + 10 + 1 + len(pages.ROWS) + 1 + 200 + 1000 + 20
    assert counts["rows"] == rows, f"rows: {counts['rows']}; wanted: {rows}"


def nothing_is_good_enough(room: Room) -> list[str]:
    """A score that no page has: the pages that were kept by the scan are all rejected."""
    return on_the_lab("corpora.food.min_score=100000", program="ray_jobs.extract")(room)


def sampled(room: Room) -> list[str]:
    """The plan of an extraction that measures on a sample: it reads pages itself, so its memory is known."""
    spoilt: dict[str, pages.Spoil] = {"expanding": pages.expanding, "groups": pages.many_row_groups}
    spoilt |= {"rows": pages.odd_rows, "objects": pages.objects(room.canary)}
    return reading("ray_jobs.extract --plan --sample pages", *spoilt.items())(room)


def _numbers(*tables: dict[str, tuple[int, Any, Any]]) -> tuple[int, ...]:
    return tuple(sorted({number for table in tables for number, _, _ in table.values()}))


ALL = tuple(sorted({*_numbers(pages.FILES, pages.ROW_GROUPS, pages.ROWS), 66, 74, 79, 80, 83}))
GROUPS = [(name, spoil) for name, (_, spoil, _) in pages.ROW_GROUPS.items()]
CASES = [
    *(
        Case(number, f"{name}, refused", "E", reading("ray_jobs.index", (name, spoil)), (f"{name}.parquet: ", problem))
        for name, (number, spoil, problem) in pages.FILES.items()
    ),
    Case(
        _numbers(pages.ROW_GROUPS),
        "bad row groups, refused by an extraction",
        "E",
        reading("ray_jobs.extract", *GROUPS),
        tuple(f"{name}.parquet: row groups 0 to 0 cannot be decoded" for name, _ in GROUPS),
        remade=("data/corpora/units-*",),
    ),
    Case(ALL, "all of it, left out of an extraction", "R", everything("ray_jobs.extract"), "", extracted),
    Case(ALL, "all of it, left out of an index", "R", everything("ray_jobs.index"), "", indexed),
    Case(70, "every page rejected", "E", nothing_is_good_enough, ("food", "too few")),
    Case(
        71,
        "a corpus smaller than one batch of validation",
        "E",
        on_the_lab("stage.evaluation.sequences=1_000_000"),
        ("stage.evaluation.sequences: found 1,000,000; corpus food holds out", "a larger source or val_share"),
    ),
    Case(
        (76, 80, 82, 83),
        "pages that expand, many row groups, objects, in one process",
        "W",
        sampled,
        "tokens expected",
        within_memory,
    ),
]
