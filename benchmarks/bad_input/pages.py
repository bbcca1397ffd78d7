"""Pages in FineWeb's row form, and Parquet files of them that are spoilt one way each."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bad_input.weights import pickle
from lethe.corpora.schema import FINEWEB

Spoil = Callable[[Path, pa.Table], Any]

CORPORA = ("food", "automotive")
GOOD = 120  # pages of each corpus
BESIDE = ("_SUCCESS", "_metadata.parquet", "._a.parquet", ".a.parquet.crc", "README.md")
"""Files beside those of pages that are no part of a source."""


def good_pages(storage: Path) -> pa.Table:
    """Pages that the lab's corpora took."""
    parts = [sorted((storage / "data" / "corpora").glob(f"{name}-*/train/part-*.parquet"))[0] for name in CORPORA]
    return pa.concat_tables([pq.read_table(part, columns=FINEWEB.names).slice(0, GOOD) for part in parts])


def other_pages(pages: pa.Table, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """So many pages about food like no other: the words of good ones, in another order."""
    rng, rows = random.Random(seed), []
    for number, row in enumerate(pages.slice(0, count).to_pylist()):
        words = row["text"].split()
        rng.shuffle(words)
        name = f"{seed}-{number}"
        rows.append(
            row | {"text": " ".join(words), "id": f"<urn:uuid:{name}>", "url": f"https://www.s{name}.example/p"}
        )
    return rows


def write_pages(path: Path, rows: list[dict[str, Any]] | pa.Table, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, FINEWEB)
    pq.write_table(table, path, **options)


def _cut(path: Path, table: pa.Table) -> None:
    write_pages(path, table)
    path.write_bytes(path.read_bytes()[:-20])


def _encrypted(path: Path, table: pa.Table) -> None:
    write_pages(path, table)
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")


def _no_row_groups(path: Path, table: pa.Table) -> None:
    with pq.ParquetWriter(path, table.schema):
        pass
    assert pq.read_metadata(path).num_row_groups == 0


def _with_text(value: Any) -> Spoil:
    def spoil(path: Path, table: pa.Table) -> None:
        write_pages(path, table.set_column(0, "text", pa.array([value] * table.num_rows)))

    return spoil


def _great_footer(path: Path, table: pa.Table) -> None:
    """The footer of 100,000 row groups takes 119 MB; here it is a hole in the file."""
    length = 119_000_000
    with path.open("wb") as file:
        file.write(b"PAR1")
        file.truncate(length)
        file.seek(length)
        file.write((length - 12).to_bytes(4, "little") + b"PAR1")


FILES: dict[str, tuple[int, Spoil, str]] = {
    "nothing": (59, lambda path, table: path.write_bytes(b""), "found 0 bytes"),
    "cut tail": (60, _cut, "no Parquet footer"),
    "an error page": (61, lambda path, table: path.write_text("<html>Not found</html>"), "no Parquet footer"),
    "encrypted footer": (63, _encrypted, "an encrypted footer"),
    "no row groups": (64, _no_row_groups, "found no rows"),
    "an empty row group": (64, lambda path, table: write_pages(path, table.slice(0, 0)), "found no rows"),
    "pipe": (65, lambda path, table: os.mkfifo(path), "no regular file"),
    "device": (65, lambda path, table: path.symlink_to("/dev/zero"), "no regular file"),
    "link loop": (65, lambda path, table: path.symlink_to(path), "no regular file"),
    "no text column": (67, lambda path, table: write_pages(path, table.drop_columns("text")), "column text: missing"),
    "text is a list": (68, _with_text(["x"]), "column text: found type list"),
    "text is a number": (68, _with_text(1), "column text: found type int64"),
    "text is binary": (68, _with_text(b"x"), "column text: found type binary"),
    "another schema": (69, lambda path, table: write_pages(path, table.drop_columns("url")), "column url: missing"),
    "a footer of 119 MB": (82, _great_footer, "found a footer of 118,999,996 bytes; allowed: up to 67,108,864"),
}
"""Of what a whole file can be: the number of the catalogue, how it is made, and what is said of it."""


def flip(path: Path, column: str) -> None:
    """Turn over every bit of some bytes of a column's pages, in the first row group."""
    data, chunk = bytearray(path.read_bytes()), _chunk(path, column)
    start = (chunk.dictionary_page_offset or chunk.data_page_offset) + 20
    data[start : start + 40] = bytes(byte ^ 255 for byte in data[start : start + 40])
    path.write_bytes(data)


def _flipped(path: Path, table: pa.Table) -> None:
    write_pages(path, table, compression="zstd")
    flip(path, "url")


def _codec(number: int) -> Spoil:
    """Another codec of the addresses in the footer; in Thrift's compact form 6, ZSTD, is 12."""

    def spoil(path: Path, table: pa.Table) -> None:
        write_pages(path, table, compression="zstd")
        data = path.read_bytes()
        assert data.count(b"\x18\x03url\x15\x0c") == 1
        path.write_bytes(data.replace(b"\x18\x03url\x15\x0c", b"\x18\x03url\x15" + bytes([2 * number])))

    return spoil


def _a_billion_values(path: Path, table: pa.Table) -> None:
    """The number of values in a page's header, here 20, in Thrift's compact form 40."""
    write_pages(path, table.slice(0, 20), compression="none", use_dictionary=False, write_statistics=False)
    data, start = path.read_bytes(), _chunk(path, "url").data_page_offset
    at = data.index(b"\x15\x28", start, start + 20)
    billion = b"\x15\x80\xa8\xd6\xb9\x07"
    path.write_bytes(data[:at] + billion + data[at + len(billion) :])


def _chunk(path: Path, column: str) -> Any:
    group = pq.read_metadata(path).row_group(0)
    return next(chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema == column)


ROW_GROUPS: dict[str, tuple[int, Spoil, str]] = {
    "flipped bits in a page": (62, _flipped, "cannot be decoded"),
    "a codec that is not built in": (63, _codec(3), "cannot be decoded"),
    "unknown codec": (63, _codec(60), "cannot be decoded"),
    "a billion values": (81, _a_billion_values, "cannot be decoded: column url"),
}
"""As FILES, of what only shows when a row group is read."""


def repeated(path: Path, rows: pa.Table, size: int) -> None:
    """A text of so many bytes once in a dictionary, to which all rows point."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows.num_rows, pa.int32()), pa.array(["a" * size]))
    rows = rows.set_column(0, "text", texts)
    write_pages(path, rows, compression="zstd", store_schema=False, dictionary_pagesize_limit=2 * size)


def expanding(path: Path, table: pa.Table) -> None:
    """Some hundred bytes that become 200 MB."""
    rows = [page | {"text": None} for page in other_pages(table, 100, 80) * 2]
    repeated(path, pa.Table.from_pylist(rows, FINEWEB), 1_000_000)


def many_row_groups(path: Path, table: pa.Table) -> None:
    rows = other_pages(table, 100, 82) * 10
    write_pages(path, [row | {"text": f"{i} {row['text']}"} for i, row in enumerate(rows)], row_group_size=1)


def objects(canary: Path) -> Spoil:
    """Columns of extension types that carry a serialized object, plain and nested, which makes a folder when it is
    made: the type that pyarrow once unpickled from a file's schema, and the one in which Ray keeps objects."""
    payload = pickle(canary)

    def spoil(path: Path, table: pa.Table) -> None:
        rows = pa.Table.from_pylist(other_pages(table, 20, 83), FINEWEB)
        column = pa.array([payload] * rows.num_rows, pa.binary())
        nested = pa.StructArray.from_arrays([column], ["inner"])
        for name, kind in (("old", b"arrow.py_extension_type"), ("ray", b"ray.data.arrow_pickled_object")):
            about = {b"ARROW:extension:name": kind, b"ARROW:extension:metadata": payload}
            rows = rows.append_column(pa.field(name, pa.binary(), metadata=about), column)
            inner = pa.field("inner", pa.binary(), metadata=about)
            rows = rows.append_column(pa.field(f"{name}_nested", pa.struct([inner])), nested)
        write_pages(path, rows)

    return spoil


def broken_utf8(path: Path, table: pa.Table) -> None:
    """Ten pages; a byte that no UTF-8 has in the text of one and the address of another."""
    rows = pa.Table.from_pylist(other_pages(table, 10, 74), FINEWEB)
    for column, bad in (("text", 3), ("url", 5)):
        values = [text.encode() for text in rows[column].to_pylist()]
        values[bad] = values[bad][:20] + b"\xe9" + values[bad][20:]
        broken = pa.Array.from_buffers(pa.string(), 10, pa.array(values, pa.binary()).buffers())
        rows = rows.set_column(rows.schema.get_field_index(column), column, broken)
    write_pages(path, rows)


ROWS: dict[str, tuple[int, dict[str, Any], str]] = {
    "null text": (72, {"text": None}, "no_text"),
    "null url": (72, {"url": None}, ""),
    "empty text": (73, {"text": ""}, "no_text"),
    "NUL": (75, {"text": "butter the onion soup \0 and stir the onion soup " * 20}, "junk"),
    "control characters": (75, {"text": "butter the onion soup \x1b[2J and stir the soup " * 20}, "junk"),
    "ten megabytes": (76, {"text": "butter the onion soup and stir " * 330_000}, "too_long"),
    "no host": (77, {"url": "file:///etc/passwd"}, ""),
    "javascript": (77, {"url": "javascript:alert(1)"}, ""),
    "IDN": (77, {"url": "https://www.bücher.example/x"}, ""),
    "an address of 8 KB": (77, {"url": "http://long.example/" + "a" * 8000}, ""),
    "an id that is another's": (78, {"id": "<urn:uuid:0-0>"}, ""),
}
"""Fields of one page, and the reason for which it is rejected, "" where it stays."""


def odd_rows(path: Path, table: pa.Table) -> None:
    """One page for each of ROWS, after one that is as it should be."""
    first, *pages = other_pages(table, 1 + len(ROWS))
    write_pages(path, [first, *(page | fields for page, (_, fields, _) in zip(pages, ROWS.values(), strict=True))])


def of_both(path: Path, table: pa.Table) -> None:
    """A page that would be of either corpus."""
    (food,), (car,) = other_pages(table, 1, 79), other_pages(table.slice(table.num_rows - 1), 1, 79)
    write_pages(path, [food | {"text": f"{food['text']} {car['text']}"}])
