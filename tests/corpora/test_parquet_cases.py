"""Bad Parquet files and rows, each through a whole extraction and a whole index: refused by name, or skipped, named in
the manifest and counted. The numbers are those of a catalogue of what breaks."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
    """A page that is like no other number's, every fourth word of which is one of `words`."""
    rng = random.Random(number)
    text = " ".join(words[i // 4 % 3] if i % 4 == 0 else "".join(rng.choices("aeioulnrst", k=5)) for i in range(60))
    return toy.page(text, number) | fields


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


def write(path: Path, table: pa.Table, **options: Any) -> None:
    pq.write_table(table, path, **options)


def cut(path: Path, table: pa.Table) -> None:
    write(path, table)
    path.write_bytes(path.read_bytes()[:-20])


def encrypted(path: Path, table: pa.Table) -> None:
    write(path, table)
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")


def no_row_groups(path: Path, table: pa.Table) -> None:
    with pq.ParquetWriter(path, table.schema):
        pass
    assert pq.read_metadata(path).num_row_groups == 0


def with_text(path: Path, table: pa.Table, values: Any) -> None:
    write(path, table.set_column(0, "text", pa.array([values] * table.num_rows)))


FILES: dict[str, tuple[Callable[[Path, pa.Table], Any], str]] = {
    "59 nothing": (lambda path, table: path.write_bytes(b""), "found 0 bytes"),
    "60 cut tail": (cut, "no Parquet footer"),
    "61 an error page": (lambda path, table: path.write_text("<html>Not found</html>"), "no Parquet footer"),
    "63 encrypted footer": (encrypted, "an encrypted footer"),
    "64 no row groups": (no_row_groups, "found no rows"),
    "64 an empty row group": (lambda path, table: write(path, table.slice(0, 0)), "found no rows"),
    "65 pipe": (lambda path, table: os.mkfifo(path), "no regular file"),
    "65 device": (lambda path, table: path.symlink_to("/dev/zero"), "no regular file"),
    "65 link loop": (lambda path, table: path.symlink_to(path), "no regular file"),
    "67 no text": (lambda path, table: write(path, table.drop_columns("text")), "column text: missing"),
    "68 text is a list": (lambda path, table: with_text(path, table, ["x"]), "column text: found type list"),
    "68 text is a number": (lambda path, table: with_text(path, table, 1), "column text: found type int64"),
    "68 text is binary": (lambda path, table: with_text(path, table, b"x"), "column text: found type binary"),
    "69 another schema": (lambda path, table: write(path, table.drop_columns("url")), "column url: missing"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_stops_both_programs_or_is_named_in_both_manifests(storage: Path, toy: Any, case: str) -> None:
    make, problem = FILES[case]
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


def flip(path: Path, column: str, start: int, count: int) -> None:
    """Turn over every bit of some bytes of a column's pages, in the first row group."""
    data, group = bytearray(path.read_bytes()), pq.read_metadata(path).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    first = (chunk.dictionary_page_offset or chunk.data_page_offset) + start
    data[first : first + count] = bytes(byte ^ 255 for byte in data[first : first + count])
    path.write_bytes(data)


def flipped(path: Path, table: pa.Table) -> None:
    write(path, table, compression="zstd")
    flip(path, "url", 20, 40)


def flipped_under_a_checksum(path: Path, table: pa.Table) -> None:
    """Letters of an address that is stored as it is: nothing but the page's checksum can tell."""
    write(path, table, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True)
    data = path.read_bytes()
    assert data.count(b"site205") == 1
    path.write_bytes(data.replace(b"site205", b"site305"))


def unknown_codec(number: int) -> Callable[[Path, pa.Table], None]:
    """The addresses' codec in the footer; in Thrift's compact form 6, ZSTD, is 12."""

    def make(path: Path, table: pa.Table) -> None:
        write(path, table, compression="zstd")
        data = path.read_bytes()
        assert data.count(b"\x18\x03url\x15\x0c") == 1
        path.write_bytes(data.replace(b"\x18\x03url\x15\x0c", b"\x18\x03url\x15" + bytes([2 * number])))

    return make


def page_of_a_billion_values(path: Path, table: pa.Table) -> None:
    """Twenty values in Thrift's compact form, 40, and a number of the five bytes that a billion takes."""
    write(path, table, compression="none", use_dictionary=False, write_statistics=False)
    data, group = path.read_bytes(), pq.read_metadata(path).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "url")
    at = data.index(b"\x15\x28", chunk.data_page_offset)
    assert at < chunk.data_page_offset + 20
    billion = b"\x15\x80\xa8\xd6\xb9\x07"  # 1e9
    rest = at + 2 + len(billion) - 2  # over what follows, so that nothing else moves: the header is spoilt anyway
    path.write_bytes(data[:at] + billion + data[rest:])


ROW_GROUPS: dict[str, tuple[Callable[[Path, pa.Table], Any], str]] = {
    "62 flipped bits": (flipped, "cannot be decoded"),
    "63 a codec that is not built in": (unknown_codec(3), "cannot be decoded"),
    "63 a codec of no number": (unknown_codec(60), "cannot be decoded"),
    "81 a billion values": (page_of_a_billion_values, "cannot be decoded: column url"),
}


@pytest.mark.parametrize("case", ROW_GROUPS)
def test_bad_row_groups_stop_both_programs_or_are_named_and_counted_in_both(storage: Path, toy: Any, case: str) -> None:
    make, problem = ROW_GROUPS[case]
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


def test_an_index_heeds_the_checksums_of_pages(storage: Path, toy: Any) -> None:
    """62, where the flipped bits make another good text."""
    flipped_under_a_checksum(storage / "pages" / "c.parquet", soups(toy))
    with pytest.raises(UserError, match=r"c\.parquet: row groups 0 to 0 cannot be decoded: .*CRC"):
        index(storage)
    assert index(storage, "skip")["counts"]["unreadable"] == 20


def test_what_lies_beside_the_data_is_no_part_of_it(storage: Path, toy: Any) -> None:
    """66."""
    folder = storage / "pages"
    for name in ("_SUCCESS", "_metadata.parquet", "._a.parquet", ".a.parquet.crc", "README.md"):
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
    write(storage / "pages" / "c.parquet", table.select([name for name, _ in fields]).cast(pa.schema(fields)))
    assert extract(storage, toy)["soup"]["documents"] == PER_SUBJECT + 20
    assert rows_of(storage, "corpora/soup-*/*/*.parquet", PAGES)["dump"].null_count == 20
    index(storage)
    indexed = rows_of(storage, "index/*/*/*.parquet", INDEX)
    assert (indexed["dump"].null_count, indexed["token_count"].null_count) == (20, 0)


LONG_URL = "http://long.example/" + "a" * 8000
ROWS: dict[str, tuple[dict[str, Any], str | None, dict[str, int]]] = {
    "72 null text": ({"text": None}, "no_text", {}),
    "72 null url": ({"url": None}, None, {"no_url": 1}),
    "73 empty text": ({"text": ""}, "no_text", {}),
    "75 NUL": ({"text": "onion soup \x00 ladle onion soup"}, "junk", {}),
    "75 control characters": ({"text": "onion soup \x1b[2J ladle onion soup"}, "junk", {}),
    "76 ten megabytes": ({"text": "onion soup ladle " * 600_000}, "too_long", {}),
    "77 no host": ({"url": "file:///etc/passwd"}, None, {"no_host": 1}),
    "77 javascript": ({"url": "javascript:alert(1)"}, None, {"no_host": 1}),
    "77 IDN": ({"url": "https://www.bücher.example/x"}, None, {}),
    "77 8 KB": ({"url": LONG_URL}, None, {}),
    "84 eos": ({"text": "Page number 200 begins here. onion soup <eos> ladle <eos>onion"}, None, {}),
}
MISSING = ("no_url", "no_host", "no_registrable_domain", "no_token_count", "bad_utf8")


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_is_counted_and_an_odd_one_is_kept_as_it_is(storage: Path, toy: Any, case: str) -> None:
    fields, reason, missing = ROWS[case]
    odd = page(toy, toy.soup, 200, **fields)
    toy.write(storage / "pages" / "c.parquet", [odd, *soups(toy, range(201, 210)).to_pylist()])
    soup = extract(storage, toy)["soup"]
    assert soup["documents"] == PER_SUBJECT + 9 + (reason is None)
    expected = {"off_topic": PER_SUBJECT} | ({reason: 1} if reason else {})
    assert {name: count for name, count in soup["rejects"].items() if count} == expected
    kept = rows_of(storage, "corpora/soup-*/*/*.parquet", PAGES)
    assert [(r["text"], r["url"]) for r in kept.to_pylist() if r["id"] == odd["id"]] == (
        [] if reason else [(odd["text"], odd["url"])]
    )
    counts = index(storage)["counts"]
    assert {name: counts[name] for name in MISSING if counts[name]} == missing
    indexed = rows_of(storage, "index/*/*/*.parquet", INDEX).to_pylist()
    assert len(indexed) == 2 * PER_SUBJECT + 10
    (row,) = (row for row in indexed if row["id"] == odd["id"])
    assert (row["file"], row["row_group"], row["row"], row["url"]) == ("c.parquet", 0, 0, odd["url"])


def test_broken_utf8_is_counted_and_spoils_no_other_row(storage: Path, toy: Any) -> None:
    """74."""
    table = soups(toy, range(200, 210))
    for column, bad in (("text", 3), ("url", 5)):
        values = [text.encode() for text in table[column].to_pylist()]
        values[bad] = values[bad][:20] + b"\xe9" + values[bad][20:]
        broken = pa.Array.from_buffers(pa.string(), 10, pa.array(values, pa.binary()).buffers())
        table = table.set_column(table.schema.get_field_index(column), column, broken)
    write(storage / "pages" / "c.parquet", table)
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
    """82; a footer that takes more memory than a worker has is refused in tests/corpora/test_extract_faults.py."""
    table = soups(toy, range(200, 3200))
    write(storage / "pages" / "c.parquet", table, row_group_size=1)
    assert extract(storage, toy)["soup"]["source"]["rows"] == 2 * PER_SUBJECT + 3000
    index(storage)
    indexed = rows_of(storage, "index/*/*/*.parquet", INDEX).filter(pa.compute.field("file") == "c.parquet")
    assert indexed["id"].to_pylist() == table["id"].to_pylist()
    assert np.array_equal(indexed["row_group"].to_numpy(), np.arange(3000))
    assert set(indexed["row"].to_pylist()) == {0}
