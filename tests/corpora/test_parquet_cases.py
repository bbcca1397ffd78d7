"""Bad Parquet files and rows, each through a whole extraction and a whole index: refused by name, or skipped, named in
the manifest and counted. The cases, and their numbers in a catalogue, are those of benchmarks.bad_input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.bad_input import pages
from benchmarks.bad_input.pages import write_pages
from lethe.config import UserError
from lethe.corpora.index import INDEX, Index, index_unit
from lethe.corpora.make import make_corpora
from lethe.corpora.select import PAGES
from lethe.corpora.source import OnBadFile, open_source

PER_SUBJECT = 40

Manifest = dict[str, Any]


@pytest.fixture
def storage(toy: Any, tmp_path: Path) -> Path:
    """A storage with two good files in `pages`."""
    for name, words, first in (("a", toy.soup, 0), ("b", toy.car, PER_SUBJECT)):
        rows = [page(toy, words, number) for number in range(first, first + PER_SUBJECT)]
        toy.write(tmp_path / "pages" / f"{name}.parquet", rows)
    return tmp_path


def page(toy: Any, words: tuple[str, ...], number: int, **fields: Any) -> dict[str, Any]:
    return toy.page(toy.unlike(words, number), number) | fields


def soups(toy: Any, numbers: range = range(200, 220)) -> pa.Table:
    return toy.table([page(toy, toy.soup, number) for number in numbers])


def extract(storage: Path, toy: Any, policy: OnBadFile = "refuse") -> dict[str, Manifest]:
    folders = make_corpora("pages", toy.corpora, storage, policy)
    return {name: json.loads((folder / "manifest.json").read_text()) for name, folder in folders.items()}


def index(storage: Path, policy: OnBadFile = "refuse") -> Manifest:
    made = Index(open_source("pages", storage, policy), storage)
    for unit in made.missing_units():
        index_unit(unit, made.folder, policy)
    made.finish()
    assert made.manifest is not None
    return made.manifest


def rows_of(storage: Path, of: str, schema: pa.Schema) -> pa.Table:
    """All that lies in the one finished folder of this kind."""
    parts = sorted((storage / "data").glob(of))
    table = pa.concat_tables(pq.read_table(part) for part in parts)
    assert table.schema == schema
    return table


def tail_alone(path: Path, table: pa.Table) -> None:
    write_pages(path, table)
    path.write_bytes(path.read_bytes()[-12:])


FILES = pages.FILES | {"the tail alone": (60, tail_alone, "no Parquet footer")}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_stops_both_programs_or_is_named_in_both_manifests(storage: Path, toy: Any, case: str) -> None:
    _, make, problem = FILES[case]
    alone = {name: manifest["documents"] for name, manifest in extract(storage, toy).items()}
    make(storage / "pages" / "c.parquet", soups(toy))
    before = sorted((storage / "data").rglob("*"))
    for program in (lambda: extract(storage, toy), lambda: index(storage)):
        with pytest.raises(UserError, match=rf"c\.parquet: .*{problem}"):
            program()
    assert sorted((storage / "data").rglob("*")) == before, "refused, and something was written"

    corpora, indexed = extract(storage, toy, "skip"), index(storage, "skip")
    for skipped in (corpora["soup"]["source"]["skipped"], corpora["car"]["source"]["skipped"], indexed["skipped"]):
        assert list(skipped) == ["c.parquet"]
        assert problem in skipped["c.parquet"]
    assert {name: manifest["documents"] for name, manifest in corpora.items()} == alone
    assert indexed["counts"]["rows"] == 2 * PER_SUBJECT


@pytest.mark.parametrize("case", pages.ROW_GROUPS)
def test_bad_row_groups_stop_both_programs_or_are_named_and_counted_in_both(storage: Path, toy: Any, case: str) -> None:
    _, make, problem = pages.ROW_GROUPS[case]
    make(storage / "pages" / "c.parquet", soups(toy))
    for program in (lambda: extract(storage, toy), lambda: index(storage)):
        with pytest.raises(UserError, match=rf"c\.parquet: row groups 0 to 0 {problem}"):
            program()

    corpora, indexed = extract(storage, toy, "skip"), index(storage, "skip")
    where = "c.parquet, row groups 0 to 0"
    for skipped in (corpora["soup"]["source"]["skipped"], corpora["car"]["source"]["skipped"], indexed["skipped"]):
        assert list(skipped) == [where]
        assert problem in skipped[where]
    for manifest in corpora.values():
        assert manifest["rejects"]["unreadable"] == 20
    assert corpora["soup"]["documents"] == PER_SUBJECT
    assert indexed["counts"]["unreadable"] == 20
    assert indexed["counts"]["rows"] == 2 * PER_SUBJECT


def flipped_under_a_checksum(path: Path, table: pa.Table) -> None:
    """Letters of an address that is stored as it is: nothing but the page's checksum can tell."""
    write_pages(path, table, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True)
    data = path.read_bytes()
    assert data.count(b"site205") == 1
    path.write_bytes(data.replace(b"site205", b"site305"))


def test_an_index_heeds_the_checksums_of_pages(storage: Path, toy: Any) -> None:
    """62, where the flipped bits make another good text."""
    flipped_under_a_checksum(storage / "pages" / "c.parquet", soups(toy))
    with pytest.raises(UserError, match=r"c\.parquet: row groups 0 to 0 cannot be decoded: .*CRC"):
        index(storage)
    assert index(storage, "skip")["counts"]["unreadable"] == 20


def test_what_lies_beside_the_data_is_no_part_of_it(storage: Path, toy: Any) -> None:
    """66."""
    folder = storage / "pages"
    for name in pages.BESIDE:
        (folder / name).write_text("no Parquet")
    toy.write(folder / "_temporary" / "c.parquet", soups(toy).to_pylist())
    for manifest in extract(storage, toy).values():
        assert (manifest["source"]["files"], manifest["source"]["skipped"]) == (2, {})
    indexed = index(storage)
    assert (indexed["counts"]["rows"], indexed["skipped"]) == (2 * PER_SUBJECT, {})


def test_files_that_hold_the_same_in_other_types_become_one_schema(storage: Path, toy: Any) -> None:
    """69."""
    table = soups(toy).drop_columns(["dump", "date", "file_path"])
    types = {"text": pa.large_string(), "token_count": pa.int32(), "language_score": pa.float32()}
    types["language"] = pa.dictionary(pa.int32(), pa.string())
    fields = [(name, types.get(name, pa.string())) for name in reversed(table.schema.names)]
    write_pages(storage / "pages" / "c.parquet", table.select([name for name, _ in fields]).cast(pa.schema(fields)))
    assert extract(storage, toy)["soup"]["documents"] == PER_SUBJECT + 20
    assert rows_of(storage, "corpora/soup-*/*/*.parquet", PAGES)["dump"].null_count == 20
    index(storage)
    indexed = rows_of(storage, "index/*/*/*.parquet", INDEX)
    assert (indexed["dump"].null_count, indexed["token_count"].null_count) == (20, 0)


EOS = "Page number 200 begins here. onion soup <eos> ladle <eos>onion"
ROWS = pages.ROWS | {"eos": (84, {"text": EOS}, "")}
INDEXED_AS = {"null url": {"no_url": 1}, "no host": {"no_host": 1}, "javascript": {"no_host": 1}}
MISSING = ("no_url", "no_host", "no_registrable_domain", "no_token_count", "bad_utf8")


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_is_counted_and_an_odd_one_is_kept_as_it_is(storage: Path, toy: Any, case: str) -> None:
    _, fields, reason = ROWS[case]
    odd = page(toy, toy.soup, 200, **fields)
    toy.write(storage / "pages" / "c.parquet", [odd, *soups(toy, range(201, 210)).to_pylist()])
    soup = extract(storage, toy)["soup"]
    assert soup["documents"] == PER_SUBJECT + 9 + (not reason)
    expected = {"off_topic": PER_SUBJECT} | ({reason: 1} if reason else {})
    assert {name: count for name, count in soup["rejects"].items() if count} == expected
    kept = rows_of(storage, "corpora/soup-*/*/*.parquet", PAGES)
    assert [(r["text"], r["url"]) for r in kept.to_pylist() if r["id"] == odd["id"]] == (
        [] if reason else [(odd["text"], odd["url"])]
    )
    counts = index(storage)["counts"]
    assert {name: counts[name] for name in MISSING if counts[name]} == INDEXED_AS.get(case, {})
    indexed = rows_of(storage, "index/*/*/*.parquet", INDEX).to_pylist()
    assert len(indexed) == 2 * PER_SUBJECT + 10
    (row,) = (row for row in indexed if row["id"] == odd["id"])
    assert (row["file"], row["row_group"], row["row"], row["url"]) == ("c.parquet", 0, 0, odd["url"])


def test_broken_utf8_is_counted_and_spoils_no_other_row(storage: Path, toy: Any) -> None:
    """74."""
    pages.broken_utf8(storage / "pages" / "c.parquet", soups(toy))
    soup = extract(storage, toy)["soup"]
    assert soup["rejects"]["bad_utf8"] == 2
    assert soup["documents"] == PER_SUBJECT + 8
    rows_of(storage, "corpora/soup-*/*/*.parquet", PAGES).validate(full=True)
    assert index(storage)["counts"]["bad_utf8"] == 1  # it reads no text
    rows_of(storage, "index/*/*/*.parquet", INDEX).validate(full=True)


def test_ids_and_pages_that_come_twice(storage: Path, toy: Any) -> None:
    """78 and 79: two pages of one id both stay, being others; a page that would be of both corpora is of neither."""
    both = page(toy, toy.soup, 300)["text"] + page(toy, toy.car, 301)["text"]
    rows = [page(toy, toy.soup, 200, id="<urn:uuid:0>"), page(toy, toy.soup, 300, text=both)]
    toy.write(storage / "pages" / "c.parquet", rows)
    for manifest in extract(storage, toy).values():
        assert manifest["rejects"]["several_corpora"] == 1
    ids = rows_of(storage, "corpora/soup-*/*/*.parquet", PAGES)["id"].to_pylist()
    assert (ids.count("<urn:uuid:0>"), ids.count("<urn:uuid:300>")) == (2, 0)
    index(storage)
    ids = rows_of(storage, "index/*/*/*.parquet", INDEX)["id"].to_pylist()
    assert (ids.count("<urn:uuid:0>"), ids.count("<urn:uuid:300>")) == (2, 1)


def test_a_file_of_very_many_row_groups(storage: Path, toy: Any) -> None:
    """82; a footer that takes more memory than a worker has is among FILES."""
    table = soups(toy, range(200, 3200))
    write_pages(storage / "pages" / "c.parquet", table, row_group_size=1)
    assert extract(storage, toy)["soup"]["source"]["rows"] == 2 * PER_SUBJECT + 3000
    index(storage)
    indexed = rows_of(storage, "index/*/*/*.parquet", INDEX).filter(pa.compute.field("file") == "c.parquet")
    assert indexed["id"].to_pylist() == table["id"].to_pylist()
    assert np.array_equal(indexed["row_group"].to_numpy(), np.arange(3000))
    assert set(indexed["row"].to_pylist()) == {0}
