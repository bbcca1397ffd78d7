import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.config import UserError
from lethe.corpora import source
from lethe.corpora.footer import metadata_of
from lethe.corpora.schema import FINEWEB
from lethe.corpora.source import UNIT_BYTES, SourceFile, open_source, read_pages


@pytest.fixture
def storage(toy: Any, tmp_path: Path) -> Path:
    """A storage with two files, 25 and 5 rows, in `pages`."""
    toy.write(tmp_path / "pages" / "b.parquet", toy.pages(toy.news, range(25)))
    toy.write(tmp_path / "pages" / "a.parquet", toy.pages(toy.soup, range(25, 30)))
    return tmp_path


def test_a_folder_a_glob_and_a_url_name_the_same_source(storage: Path) -> None:
    given = ["pages", "pages/*.parquet", "pages/[ab].parquet", str(storage / "pages"), f"file://{storage}/pages"]
    sources = [open_source(text, storage) for text in given]
    assert {source.fingerprint for source in sources} == {sources[0].fingerprint}
    assert [file.name for file in sources[0].files] == ["a.parquet", "b.parquet"]
    assert sources[0].rows == 30


def test_the_fingerprint_knows_content_but_neither_place_nor_time(storage: Path, tmp_path: Path, toy: Any) -> None:
    before = open_source("pages", storage)
    copy = tmp_path / "elsewhere" / "copied"
    shutil.copytree(storage / "pages", copy)
    os.utime(copy / "a.parquet", (0, 0))
    assert open_source(str(copy), storage).fingerprint == before.fingerprint
    assert [unit.id for unit in open_source(str(copy), storage).units] == [unit.id for unit in before.units]
    toy.write(copy / "a.parquet", toy.pages(toy.soup, range(26, 31)))
    assert open_source(str(copy), storage).fingerprint != before.fingerprint


def test_what_lies_beside_the_data_is_ignored(storage: Path) -> None:
    fingerprint = open_source("pages", storage).fingerprint
    for name in ("_SUCCESS", "_metadata.parquet", ".a.parquet.123", ".hidden.parquet", "notes.txt"):
        (storage / "pages" / name).write_text("no Parquet")
    (storage / "pages" / "_temporary").mkdir()
    (storage / "pages" / "_temporary" / "half.parquet").write_text("no Parquet")
    assert open_source("pages", storage).fingerprint == fingerprint
    assert open_source("pages/**/*.parquet", storage).fingerprint == fingerprint


def test_a_glob_reaches_into_folders(storage: Path, toy: Any) -> None:
    toy.write(storage / "dumps" / "CC-1" / "x.parquet", toy.pages(toy.news, range(3)))
    toy.write(storage / "dumps" / "CC-2" / "x.parquet", toy.pages(toy.news, range(3, 6)))
    names = [file.name for file in open_source("dumps/**/*.parquet", storage).files]
    assert names == ["CC-1/x.parquet", "CC-2/x.parquet"]


def test_a_storage_whose_name_looks_like_a_pattern(tmp_path: Path, toy: Any) -> None:
    storage = tmp_path / "runs [1] *"
    toy.write(storage / "pages" / "a.parquet", toy.pages(toy.news, range(3)))
    assert open_source("pages", storage).rows == open_source("pages/*.parquet", storage).rows == 3


@pytest.mark.parametrize("given", ["nowhere", "empty", "empty/*.parquet", "file:///nowhere/at/all", "xyz://bucket/a"])
def test_a_source_without_files_is_refused(storage: Path, given: str) -> None:
    (storage / "empty").mkdir()
    with pytest.raises(UserError, match=r"source: found '.*allowed: sample"):
        open_source(given, storage)


@pytest.mark.parametrize("column", ["text", "url", "id", "language", "language_score", "token_count"])
def test_a_missing_column_is_named(storage: Path, toy: Any, column: str) -> None:
    pq.write_table(toy.table(toy.pages(toy.news, range(3))).drop_columns(column), storage / "pages" / "c.parquet")
    with pytest.raises(UserError, match=rf"c\.parquet: column {column}: missing \(found: .*\); allowed: .*text, url"):
        open_source("pages", storage)


@pytest.mark.parametrize(
    ("column", "values"),
    [("text", [["a", "list"]]), ("text", [b"bytes"]), ("token_count", ["12"]), ("language_score", [1]), ("dump", [1])],
)
def test_a_column_of_another_type_is_named(storage: Path, toy: Any, column: str, values: list[Any]) -> None:
    table = toy.table([toy.page("text")])
    position = table.schema.names.index(column)
    pq.write_table(table.set_column(position, column, pa.array(values)), storage / "pages" / "c.parquet")
    with pytest.raises(UserError, match=rf"c\.parquet: column {column}: found type .*; allowed: "):
        open_source("pages", storage)


def test_pages_come_in_order_and_in_one_schema(storage: Path, toy: Any) -> None:
    rows = toy.pages(toy.car, range(600))
    loose = toy.table(rows).select(["token_count", "text", "url", "id", "language", "language_score"])
    types = {"text": pa.large_string(), "token_count": pa.int32(), "language_score": pa.float32()}
    types["language"] = pa.dictionary(pa.int32(), pa.string())
    loose = loose.cast(pa.schema([(name, types.get(name, pa.string())) for name in loose.schema.names]))
    pq.write_table(loose, storage / "loose.parquet", row_group_size=250)
    pages = pa.concat_tables(p for unit in open_source("loose.parquet", storage).units for p in read_pages(unit))
    assert pages.schema == FINEWEB
    assert pages["text"].to_pylist() == [row["text"] for row in rows]
    assert pages["dump"].null_count == 600
    assert set(pages["language"].to_pylist()) == {"en"}


def test_a_footer_is_decoded_once_however_many_units_it_has(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """82: one of very many row groups takes long, and the memory of each decoding comes back late."""
    decoded: list[bytes] = []

    def counting(footer: bytes) -> pq.FileMetaData:
        decoded.append(footer)
        return metadata_of(footer)

    (unit,) = open_source("pages/b.parquet", storage).units
    source._decoded.cache_clear()
    monkeypatch.setattr(source, "metadata_of", counting)
    for group in range(unit.last + 1):
        list(read_pages(unit._replace(first=group, last=group)))
    assert (unit.last, len(decoded)) == (2, 1)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, UNIT_BYTES * 2)), max_size=30))
def test_units_share_out_every_row_once(groups: list[tuple[int, int]]) -> None:
    units = list(SourceFile("a.parquet", "file:///a.parquet", 1, "", tuple(groups)).units())
    covered = [group for unit in units for group in range(unit.first, unit.last + 1)]
    assert covered == sorted(set(covered))
    assert {i for i, (rows, _) in enumerate(groups) if rows} <= set(covered)
    assert sum(unit.rows for unit in units) == sum(rows for rows, _ in groups)
    assert len({unit.id for unit in units}) == len(units)
    for unit in units:
        size = sum(size for _, size in groups[unit.first : unit.last + 1])
        assert size <= UNIT_BYTES or sum(rows > 0 for rows, _ in groups[unit.first : unit.last + 1]) == 1


def test_the_sample_is_written_once(sample_storage: Path) -> None:
    folder = sample_storage / "data" / "sample"
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert open_source("sample", sample_storage).fingerprint == open_source("data/sample", sample_storage).fingerprint
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
