import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from publicsuffixlist import PublicSuffixList

from benchmarks.bad_input.pages import flip
from lethe.config import UserError
from lethe.corpora import source as source_module
from lethe.corpora.index import INDEX, Index, index_unit
from lethe.corpora.parquet import read_manifest
from lethe.corpora.source import Source, Unit, open_source
from lethe.files import sha256

LIBRARY = PublicSuffixList()
ALONE = """
import sys
from pathlib import Path
from lethe.corpora import source
from lethe.corpora.index import Index, index_unit
source.UNIT_BYTES = 2000
index = Index(source.open_source("pages", Path(sys.argv[1])), Path(sys.argv[1]))
for unit in index.missing_units():
    index_unit(unit, index.folder)
index.finish()
"""


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "UNIT_BYTES", 2000)


@pytest.fixture
def storage(toy: Any, tmp_path: Path) -> Path:
    """A storage with the source `pages`: three files of several units, and odd addresses among them."""
    odd = [None, "javascript:alert(1)", "http://10.0.0.1/", "https://www.bücher.example:80/x", "http://a.co.uk/" * 600]
    for i, name in enumerate(("b", "a", "c/d")):
        rows = toy.pages(toy.soup, range(100 * i, 100 * i + 65))
        rows += [toy.page("text", 100 * i + 90 + j, url=url, token_count=None) for j, url in enumerate(odd)]
        toy.write(tmp_path / "pages" / f"{name}.parquet", rows)
    return tmp_path


def make(index: Index) -> Index:
    for unit in index.missing_units():
        index_unit(unit, index.folder)
    index.finish()
    return index


def begin(storage: Path, given: str = "pages/**/*.parquet") -> Index:
    return Index(open_source(given, storage), storage)


def read(index: Index) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in index.files())


def hashes(index: Index) -> dict[str, str]:
    files = (path for path in sorted(index.folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(index.folder)): sha256(path) for path in files}


def reference(storage: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """Row by row from the whole file."""
    for name in names:
        for group in range((file := pq.ParquetFile(storage / "pages" / name)).num_row_groups):
            for row, page in enumerate(file.read_row_group(group).to_pylist()):
                host = (page["url"] or "").partition("://")[2].partition("/")[0].partition(":")[0]
                host = host.encode("idna").decode().removeprefix("www.") or None
                domain = LIBRARY.privatesuffix(host) if host and not host[-1].isdigit() else None
                place = {"file": name, "row_group": group, "row": row}
                columns = {key: page[key] for key in ("id", "url", "token_count", "dump")}
                yield columns | place | {"host": host, "registrable_domain": domain}


def test_every_row_is_there_once_with_its_place_and_site(storage: Path) -> None:
    index = make(begin(storage))
    table = read(index)
    assert table.schema == INDEX
    assert len(index.source.units) > 10
    assert table.to_pylist() == list(reference(storage, ["a.parquet", "b.parquet", "c/d.parquet"]))
    manifest = index.manifest
    assert manifest is not None
    assert manifest["counts"] == {
        "rows": 210,
        "tokens": 3 * 65 * 50,
        "no_url": 3,
        "no_host": 3,
        "no_registrable_domain": 3,
        "no_token_count": 15,
        "bad_utf8": 0,
    }
    assert manifest["skipped"] == {}
    assert all(pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD" for path in index.files())


def test_no_text_is_read(storage: Path) -> None:
    expected = make(begin(storage, "pages/a.parquet"))
    before = read(expected)
    shutil.rmtree(expected.root)
    path = storage / "pages" / "a.parquet"
    whole = bytearray(path.read_bytes())
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        text = metadata.row_group(group).column(0)
        start = text.dictionary_page_offset or text.data_page_offset
        whole[start : start + text.total_compressed_size] = bytes(text.total_compressed_size)
    path.write_bytes(whole)
    assert read(make(begin(storage, "pages/a.parquet"))).equals(before)


def test_the_bytes_depend_neither_on_order_nor_on_place(storage: Path, tmp_path: Path) -> None:
    first = make(begin(storage))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(storage / "pages", elsewhere / "pages")
    other = begin(elsewhere)
    for unit in reversed(other.source.units):
        index_unit(unit, other.folder)
    other.finish()
    assert other.fingerprint == first.fingerprint
    assert hashes(other) == hashes(first)


def test_killed_at_any_moment_the_same_bytes_come_out(storage: Path) -> None:
    expected = hashes(make(begin(storage, "pages")))
    shutil.rmtree(begin(storage, "pages").root)
    command = [sys.executable, "-c", ALONE, str(storage)]
    started = time.monotonic()
    subprocess.run(command, check=True)
    needed = time.monotonic() - started
    assert hashes(begin(storage, "pages")) == expected
    shutil.rmtree(begin(storage, "pages").root)
    moments = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(command)
        time.sleep(needed * moments.uniform(0.5, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert {name: value for name, value in hashes(begin(storage, "pages")).items() if "/." not in name} == expected


def test_what_is_finished_is_left_as_it_is_and_what_is_cut_is_made_again(storage: Path) -> None:
    index = make(begin(storage))
    expected = hashes(index)
    assert index.missing_units() == []
    cut, kept = index.source.units[3], index.source.units[4]
    part = index.folder / cut.id / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-7])
    (index.folder / cut.id / ".part-00000.parquet.1").write_text("left by a killed process")
    time_kept = (index.folder / kept.id / "manifest.json").stat().st_mtime_ns
    assert index.manifest is None
    assert index.missing_units() == [cut]
    assert hashes(make(index)) == expected
    assert (index.folder / kept.id / "manifest.json").stat().st_mtime_ns == time_kept


def damage(storage: Path) -> tuple[Index, Unit]:
    """The urls of one unit cannot be decoded any more."""
    flip(storage / "pages" / "a.parquet", "url")
    index = begin(storage, "pages/a.parquet")
    return index, index.source.units[0]


def test_a_damaged_row_group_is_named(storage: Path) -> None:
    index, unit = damage(storage)
    with pytest.raises(UserError, match=rf"a\.parquet: row groups {unit.first} to {unit.last} cannot be decoded"):
        make(index)
    assert read_manifest(index.folder / unit.id) is None


def test_a_damaged_row_group_is_skipped_where_the_source_says_so(storage: Path) -> None:
    index, unit = damage(storage)
    index = Index(Source(index.source.given, index.source.files, "skip"), storage)
    for each in index.missing_units():
        index_unit(each, index.folder, "skip")
    index.finish()
    manifest = index.manifest
    assert manifest is not None
    assert list(manifest["skipped"]) == [f"a.parquet, row groups {unit.first} to {unit.last}"]
    assert manifest["counts"]["unreadable"] == unit.rows
    assert read(index).num_rows == manifest["counts"]["rows"] == index.source.rows - unit.rows


def test_a_file_that_changed_since_it_was_listed_is_refused(storage: Path, toy: Any) -> None:
    index = begin(storage, "pages/a.parquet")
    toy.write(storage / "pages" / "a.parquet", toy.pages(toy.news, range(70)))
    with pytest.raises(UserError, match=r"a\.parquet"):
        make(index)


def test_texts_that_are_no_utf8_become_null_and_are_counted(storage: Path, toy: Any) -> None:
    rows = toy.table(toy.pages(toy.soup, range(4)))
    for column, broken in (("url", [1]), ("id", [1, 2])):
        values = [
            b"http://caf\xe9/" if i in broken else text.encode() for i, text in enumerate(rows[column].to_pylist())
        ]
        buffers = pa.array(values, pa.binary()).buffers()
        position = rows.schema.get_field_index(column)
        rows = rows.set_column(position, column, pa.Array.from_buffers(pa.string(), 4, buffers))
    pq.write_table(rows, storage / "broken.parquet")
    index = make(begin(storage, "broken.parquet"))
    table = read(index)
    assert [value is None for value in table["url"].to_pylist()] == [False, True, False, False]
    assert [value is None for value in table["id"].to_pylist()] == [False, True, True, False]
    manifest = index.manifest
    assert manifest is not None
    assert manifest["counts"]["bad_utf8"] == 2


def test_columns_in_other_types_and_without_dump(storage: Path, toy: Any) -> None:
    rows = toy.pages(toy.car, range(40))
    loose = toy.table(rows).select(["token_count", "url", "text", "id", "language", "language_score"])
    types = {"url": pa.large_string(), "token_count": pa.int32(), "language_score": pa.float32()}
    types["id"] = pa.dictionary(pa.int32(), pa.string())
    loose = loose.cast(pa.schema([(name, types.get(name, pa.string())) for name in loose.schema.names]))
    pq.write_table(loose, storage / "loose.parquet", row_group_size=15)
    table = read(make(begin(storage, "loose.parquet")))
    assert table.schema == INDEX
    assert table["url"].to_pylist() == [row["url"] for row in rows]
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    assert table["token_count"].to_pylist() == [50] * 40
    assert table["dump"].null_count == 40
    assert table["row_group"].to_pylist() == [i // 15 for i in range(40)]
