"""Thresholds moved after a scan: no page is read again, and the corpora are those of a scan of their own."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from misbehaving import serve

from lethe.config import RawConfig, UserError, validate
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import Extraction, open_extraction, scan_unit
from lethe.corpora.make import make_corpora, summary
from lethe.files import sha256

LETTERS = "aeioulnrst"


@pytest.fixture
def corpora(toy: Any) -> dict[str, CorpusConfig]:
    """The toy corpora, whose scan keeps pages of half their score."""
    return {name: change(corpus, scan_score=50, min_score=100) for name, corpus in toy.corpora.items()}


def change(corpus: CorpusConfig, **fields: Any) -> CorpusConfig:
    return CorpusConfig.model_validate(corpus.model_dump() | fields)


def text_of(words: tuple[str, ...], every: int, rng: random.Random) -> str:
    """60 words, every so manyth one of `words`, and the others like no other text's."""
    return " ".join(rng.choice(words) if n % every == 0 else "".join(rng.choices(LETTERS, k=5)) for n in range(60))


def write_pages(folder: Path, toy: Any) -> None:
    """Three files of pages in which a domain's words are one in three to one in twelve, and one of a kind to three."""
    rng, rows = random.Random(0), []
    for i in range(360):
        text = text_of((toy.soup, toy.car)[i % 2][: rng.randint(1, 3)], rng.randint(3, 12), rng)
        rows.append(toy.page(text, i, url=f"https://host{i % 40}.example/{i}"))
    for i in range(3):
        toy.write(folder / f"{i}.parquet", rows[i::3])


@pytest.fixture
def storage(toy: Any, tmp_path: Path) -> Path:
    write_pages(tmp_path / "pages", toy)
    return tmp_path


def spoil_texts(folder: Path) -> None:
    """Overwrite all of every file but its footer, so that it is listed as it was, and no page can be read."""
    for path in folder.glob("*.parquet"):
        data = path.read_bytes()
        footer = int.from_bytes(data[-8:-4], "little") + 8
        path.write_bytes(b"PAR1" + bytes(len(data) - footer - 4) + data[-footer:])


def files_of(folders: dict[str, Path]) -> dict[str, str]:
    return {
        str(path.relative_to(folder.parent)): sha256(path)
        for folder in folders.values()
        for path in folder.rglob("*")
        if path.is_file()
    }


def manifests(folders: dict[str, Path]) -> dict[str, dict[str, Any]]:
    return {name: json.loads((folder / "manifest.json").read_text()) for name, folder in folders.items()}


MOVES: dict[str, Callable[[CorpusConfig], CorpusConfig]] = {
    "lower": lambda corpus: change(corpus, min_score=60),
    "higher": lambda corpus: change(corpus, min_score=180),
    "fewer words": lambda corpus: change(corpus, min_distinct_words=1),
    "more words": lambda corpus: change(corpus, min_distinct_words=3),
    "budget": lambda corpus: change(corpus, tokens=1500),
    "split": lambda corpus: change(corpus, val_share=0.4, max_host_share=0.2, max_overlap=0.9),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_moved_they_give_the_bytes_of_a_fresh_extraction_and_read_no_page(
    storage: Path, corpora: dict[str, CorpusConfig], tmp_path_factory: pytest.TempPathFactory, toy: Any, move: Any
) -> None:
    moved = {name: move(corpus) for name, corpus in corpora.items()}
    other = tmp_path_factory.mktemp("fresh")
    write_pages(other / "pages", toy)
    expected = files_of(make_corpora("pages", moved, other))

    first = make_corpora("pages", corpora, storage)
    before = files_of(first)
    spoil_texts(storage / "pages")
    second = make_corpora("pages", moved, storage)
    assert files_of(second) == expected
    assert second["soup"] != first["soup"]
    assert files_of(first) == before
    assert any(
        manifests(second)[name]["documents"] != manifests(first)[name]["documents"]
        or manifests(second)[name]["splits"]["val"] != manifests(first)[name]["splits"]["val"]
        for name in corpora
    )


def test_a_lower_scan_score_reads_the_pages_again(storage: Path, corpora: dict[str, CorpusConfig]) -> None:
    make_corpora("pages", corpora, storage)
    spoil_texts(storage / "pages")
    wider = {name: change(corpus, scan_score=40) for name, corpus in corpora.items()}
    with pytest.raises(UserError, match=r"0\.parquet"):
        make_corpora("pages", wider, storage)


def test_a_server_is_asked_for_footers_only(storage: Path, corpora: dict[str, CorpusConfig]) -> None:
    with serve(storage / "pages") as server:
        given = f"{server.url}/files/"
        open_extraction(given, corpora, storage)
        listing = len(server.asked)
        make_corpora(given, corpora, storage)
        scanned = len(server.asked) - 2 * listing
        make_corpora(given, {name: MOVES["lower"](corpus) for name, corpus in corpora.items()}, storage)
        assert scanned >= 3
        assert len(server.asked) == 3 * listing + scanned


def test_what_is_kept_is_what_a_scan_without_reserve_keeps(storage: Path, corpora: dict[str, CorpusConfig]) -> None:
    plain = make_corpora("pages", {name: change(corpus, scan_score=None) for name, corpus in corpora.items()}, storage)
    kept = make_corpora("pages", corpora, storage)
    for name in corpora:
        for part in ("train", "val"):
            assert pq.read_table(kept[name] / part).equals(pq.read_table(plain[name] / part))
        rejects = [manifests(folders)[name]["rejects"] for folders in (plain, kept)]
        assert sum(rejects[0].values()) == sum(rejects[1].values())
        assert rejects[0]["off_topic"] == rejects[1]["off_topic"] + rejects[1]["below_threshold"]
        assert rejects[1]["below_threshold"] > 0 == rejects[0].get("below_threshold", 0)


def test_units_are_named_by_what_a_scan_does(storage: Path, corpora: dict[str, CorpusConfig]) -> None:
    def of(**fields: Any) -> Extraction:
        return open_extraction("pages", {"car": corpora["car"], "soup": change(corpora["soup"], **fields)}, storage)

    same = [{"min_score": 50}, {"min_distinct_words": 3}, {"tokens": 9}, {"val_share": 0.5}, {"max_host_share": 0.1}]
    assert {of(**fields).scan_folder for fields in [{}, *same, {"max_overlap": 0.1}, {"description": "d"}]} == {
        of().scan_folder
    }
    assert len({of(**fields).fingerprint for fields in [{}, *same]}) == len(same) + 1
    other = [{"scan_score": 49}, {"scan_score": None}, {"words": ("leek",)}, {"url_bonus": 1}, {"min_characters": 9}]
    assert len({of(**fields).scan_folder for fields in [{}, *other]}) == len(other) + 1
    # Without a reserve the thresholds are what the scan keeps by.
    assert of(scan_score=None, min_score=60).scan_folder != of(scan_score=None, min_score=61).scan_folder
    assert of(scan_score=None, tokens=5).scan_folder == of(scan_score=None).scan_folder


def test_a_unit_that_was_deleted_is_scanned_again_and_only_that(
    storage: Path, corpora: dict[str, CorpusConfig]
) -> None:
    make_corpora("pages", corpora, storage)
    moved = {name: MOVES["higher"](corpus) for name, corpus in corpora.items()}
    extraction = open_extraction("pages", moved, storage)
    times = {
        unit.id: (extraction.scan_folder / unit.id / "manifest.json").stat().st_mtime_ns for unit in extraction.units
    }
    shutil.rmtree(extraction.scan_folder / extraction.units[1].id)
    assert extraction.missing_units() == [extraction.units[1]]
    make_corpora("pages", moved, storage)
    for unit in extraction.units:
        written = (extraction.scan_folder / unit.id / "manifest.json").stat().st_mtime_ns
        assert (written == times[unit.id]) == (unit != extraction.units[1])


def test_a_changed_source_is_refused_while_its_scan_has_not_ended(
    storage: Path, corpora: dict[str, CorpusConfig], toy: Any
) -> None:
    begun = open_extraction("pages", corpora, storage)
    begun.begin()
    scan_unit(begun.units[0], begun.domains, begun.scan_folder)
    path = storage / "pages" / "1.parquet"
    whole = path.read_bytes()
    toy.write(path, toy.pages(toy.soup, range(50)))
    with pytest.raises(UserError, match=r"changed since its units were begun: 1\.parquet has .* bytes"):
        make_corpora("pages", corpora, storage)
    path.write_bytes(whole)
    first = make_corpora("pages", corpora, storage)
    toy.write(path, toy.pages(toy.soup, range(50)))
    assert make_corpora("pages", corpora, storage) != first, "an ended scan lets the source go on"


def test_a_scan_score_above_the_score_is_refused(toy: Any) -> None:
    data = toy.corpora["soup"].model_dump() | {"scan_score": 51}
    with pytest.raises(UserError, match=r"^x: scan_score: found 51\.0; allowed: null, or up to min_score, 50\.0$"):
        validate(CorpusConfig, RawConfig("x", data, {}))


def test_ids_of_several_candidates_are_counted_named_and_no_hindrance(storage: Path, toy: Any) -> None:
    path = storage / "pages" / "0.parquet"
    rng = random.Random(1)
    rows = [toy.page(text_of((toy.soup, toy.car)[i // 40], 4, rng), i) for i in range(80)]
    ids = ["one", "one", "one", "two", *range(36), "two", *range(100, 139)]  # two: a page of each corpus
    toy.write(path, [row | {"id": str(number)} for row, number in zip(rows, ids, strict=True)])
    folders = make_corpora("pages/0.parquet", toy.corpora, storage)
    found = manifests(folders)
    assert found["soup"]["duplicate_ids"] == {"count": 2, "some": ["one", "two"]}
    assert found["car"]["duplicate_ids"] == {"count": 1, "some": ["two"]}
    kept = pa.concat_tables(pq.read_table(folders["soup"] / part) for part in ("train", "val"))["id"].to_pylist()
    assert (len(kept), kept.count("one")) == (40, 3)
    assert "ids of several candidates: 2, such as one, two" in summary(folders)


def test_the_summary_tells_what_the_units_hold(storage: Path, corpora: dict[str, CorpusConfig]) -> None:
    folders = make_corpora("pages", corpora, storage)
    extraction = open_extraction("pages", corpora, storage)
    tables = [pq.read_table(path) for path in extraction.scan_folder.rglob("*.parquet")]
    size = sum(path.stat().st_size for path in extraction.scan_folder.rglob("*.parquet"))
    rows = sum(table.num_rows for table in tables)
    units = manifests(folders)["soup"]["units"]
    assert units == {"folder": extraction.scan_folder.name, "candidates": rows, "bytes": size}
    assert f"{rows:,} candidates in {size / 1e6:,.1f} MB" in summary(folders)
    shutil.rmtree(extraction.scan_folder)
    assert "candidates in" not in summary(folders)
    assert make_corpora("pages", corpora, storage) == folders
