"""Files that cannot be read, or not within bounds, and sources that change: refused or skipped, by name."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.bad_input.pages import flip, repeated
from lethe.config import UserError
from lethe.corpora import bounds
from lethe.corpora.extract import Extraction, scan_unit
from lethe.corpora.footer import BadFileError
from lethe.corpora.parquet import read_manifest
from lethe.corpora.schema import FINEWEB
from lethe.corpora.source import OnBadFile, open_source, read_pages

MAX_BYTES = 1_500_000_000  # of a worker


@pytest.fixture
def storage(toy: Any, tmp_path: Path) -> Path:
    """A storage with two good files of 30 pages in `pages`."""
    for name, words in (("a", toy.soup), ("b", toy.car)):
        toy.write(tmp_path / "pages" / f"{name}.parquet", toy.pages(words, range(30)))
    return tmp_path


def test_a_source_of_bad_files_only_is_refused(storage: Path) -> None:
    for path in (storage / "pages").iterdir():
        path.write_text("<html>")
    with pytest.raises(UserError, match=r"source: found 'pages', no file of which can be read: .*a\.parquet"):
        open_source("pages", storage, "skip")


def test_a_link_to_a_file_is_a_file(storage: Path) -> None:
    shutil.move(storage / "pages" / "a.parquet", storage / "blob")
    (storage / "pages" / "a.parquet").symlink_to(storage / "blob")
    assert open_source("pages", storage).rows == 60


def test_damaged_row_groups_are_refused_or_skipped_counted_and_named(storage: Path, toy: Any) -> None:
    """62, of one row group of several."""
    flip(storage / "pages" / "b.parquet", "text")

    def scan(policy: OnBadFile) -> Extraction:
        extraction = Extraction(open_source("pages", storage, policy), toy.corpora, storage)
        for unit in extraction.missing_units():
            scan_unit(unit, toy.corpora, extraction.scan_folder, policy)
        return extraction

    with pytest.raises(BadFileError, match=r"b\.parquet: row groups 0 to 2 cannot be decoded"):
        scan("refuse")
    extraction = scan("skip")
    ((name, problem),) = extraction.skipped().items()
    assert name == "b.parquet, row groups 0 to 2"
    assert "cannot be decoded" in problem
    assert not extraction.missing_units()
    manifests = [read_manifest(extraction.scan_folder / unit.id) for unit in extraction.source.units]
    assert [m and m["rejects"]["soup"].get("unreadable", 0) for m in manifests] == [0, 30]
    assert [bool(m and m["files"]) for m in manifests] == [True, False]
    assert [path.name for path in (extraction.scan_folder / extraction.source.units[1].id).iterdir()] == [
        "manifest.json"
    ]
    refusing = Extraction(open_source("pages", storage), toy.corpora, storage)
    assert refusing.fingerprint != extraction.fingerprint


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes_give_pages_or_one_error(storage: Path, toy: Any, data: st.DataObject) -> None:
    whole = toy.write(storage / "flip.parquet", toy.pages(toy.soup, range(30))).read_bytes()
    spoilt = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (storage / "flip.parquet").write_bytes(spoilt)
    try:
        pages = [page for unit in open_source("flip.parquet", storage).units for page in read_pages(unit)]
    except UserError as error:
        assert "flip.parquet" in str(error)
    else:
        assert all(page.schema == FINEWEB for page in pages)


def test_a_page_that_tells_of_too_many_values(storage: Path, toy: Any) -> None:
    """81, and a footer that does not tell of them."""
    path = storage / "pages" / "a.parquet"
    pq.write_table(toy.table(toy.pages(toy.soup, range(30))), path, use_dictionary=False, write_statistics=False)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    header = bytes(data[chunk.data_page_offset : chunk.data_page_offset + 32])
    position = chunk.data_page_offset + header.index(b"\x15\x3c")  # num_values, 30, in Thrift's compact form
    data[position + 1] = 0x7E  # 63
    path.write_bytes(data)
    (unit,) = open_source("pages/a.parquet", storage).units
    with pytest.raises(BadFileError, match="column text: a page tells of 63 values; the row group has 30 rows"):
        list(read_pages(unit))


def test_a_page_of_too_many_bytes(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_PAGE_BYTES", 100)
    with pytest.raises(BadFileError, match=r"column text: a page takes [0-9,]+ bytes; at most 100 are read"):
        list(read_pages(open_source("pages", storage).units[0]))


def test_the_largest_page_is_what_the_headers_tell(storage: Path, toy: Any) -> None:
    rng = random.Random(3)
    rows = [toy.page("".join(rng.choices("abc ", k=3000)), i) for i in range(2000)]
    for options in ({}, {"use_dictionary": False}, {"data_page_version": "2.0"}, {"data_page_size": 5000}):
        path = storage / "x.parquet"
        pq.write_table(toy.table(rows), path, **options)
        metadata = pq.read_metadata(path)
        with path.open("rb") as file:
            largest = bounds.largest_page(file, metadata, range(1), ["text"])
        total = metadata.row_group(0).column(0).total_uncompressed_size
        assert 3000 < largest <= total


MEASURED = """
import json, re, sys
from pathlib import Path
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import Extraction, scan_unit
from lethe.corpora.source import open_source
from lethe.config import UserError
corpora = {"soup": CorpusConfig(description="d", words=("onion", "soup"), min_score=50)}
try:
    extraction = Extraction(open_source("pages", Path(sys.argv[1])), corpora, Path(sys.argv[1]))
    units = [scan_unit(unit, corpora, extraction.scan_folder) for unit in extraction.source.units]
    result = [sum(unit["rows"] for unit in units), units[0]["rejects"]["soup"]]
except UserError as error:
    result = str(error)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]  # getrusage counts the parent's
print(json.dumps([int(peak) * 1024, result]))
"""


def write_repeated(path: Path, toy: Any, size: int, rows: int) -> None:
    repeated(path, toy.table(toy.pages(toy.soup, range(rows))), size)


def write_long(path: Path, toy: Any, size: int, rows: int) -> None:
    """Texts of so many bytes, one after the other."""
    table = toy.table([toy.page("onion " * (size // 6), i) for i in range(rows)])
    pq.write_table(table, path, compression="zstd", use_dictionary=False)


def write_wide(path: Path, toy: Any, size: int, rows: int) -> None:
    """A single row group of many short texts."""
    texts = [f"{i} " + "some quiet words " * (size // 17) for i in range(rows)]
    table = toy.table(toy.pages(toy.soup, range(1)) * rows).set_column(0, "text", pa.array(texts))
    pq.write_table(table, path, row_group_size=rows)


@pytest.mark.parametrize(
    ("write", "size", "rows"),
    [
        (write_long, 10_000_000, 3),  # 76
        (write_repeated, 1_000_000, 200),  # 80
        pytest.param(write_repeated, 20_000_000, 120, marks=pytest.mark.slow),  # 2.4 GB
        pytest.param(write_long, 240_000_000, 1, marks=pytest.mark.slow),
        pytest.param(write_wide, 3000, 100_000, marks=pytest.mark.slow),
    ],
)
def test_memory_is_bounded_whatever_the_pages(
    storage: Path, toy: Any, write: Callable[..., None], size: int, rows: int
) -> None:
    shutil.rmtree(storage / "pages")
    (storage / "pages").mkdir()
    write(storage / "pages" / "x.parquet", toy, size, rows)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, storage], capture_output=True, text=True, timeout=200, check=True
    )
    peak, (scanned, rejects) = json.loads(done.stdout)
    assert scanned == rows
    assert sum(rejects.values()) == rows
    assert peak < MAX_BYTES


def test_pages_that_fit_no_memory_are_refused_unread(storage: Path, toy: Any) -> None:
    shutil.rmtree(storage / "pages")
    (storage / "pages").mkdir()
    write_long(storage / "pages" / "x.parquet", toy, 100_000_002, 3)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, storage], capture_output=True, text=True, timeout=200, check=True
    )
    peak, problem = json.loads(done.stdout)
    assert "x.parquet: row groups 0 to 0 cannot be decoded: column text: a page takes 3" in problem
    assert peak < MAX_BYTES / 3


CANARY = """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
import ray.data
from ray.data.extensions import ArrowPythonObjectArray
from lethe.corpora.source import open_source, read_pages
from lethe.corpora.schema import FINEWEB
class Evil:
    def __reduce__(self):
        return (open, (sys.argv[1] + "/canary", "w"))
objects = ArrowPythonObjectArray.from_objects([Evil()] * 3)
nested = pa.StructArray.from_arrays([objects], ["inner"])
folder = Path(sys.argv[1]) / "evil"
folder.mkdir()
row = dict(text="x", id="1", dump="d", url="u", language="en", language_score=0.9, token_count=5)
table = pa.Table.from_pylist([row] * 3, FINEWEB).append_column("extra", objects).append_column("nested", nested)
pq.write_table(table, folder / "a.parquet")
source = open_source("evil", Path(sys.argv[1]))
assert sum(page.num_rows for unit in source.units for page in read_pages(unit)) == 3
pq.write_table(table.set_column(0, "text", objects), folder / "a.parquet")
print([problem for _, problem in open_source("evil/*", Path(sys.argv[1]), "skip").skipped])
"""


@pytest.mark.slow
def test_no_object_in_a_file_is_ever_made(storage: Path) -> None:
    """83, with Ray's own extension type, in a process that has registered it."""
    done = subprocess.run(
        [sys.executable, "-c", CANARY, storage], capture_output=True, text=True, timeout=200, check=False
    )
    assert "no file of which can be read" in done.stderr, done.stderr
    assert "column text: found type" in done.stderr
    assert not (storage / "canary").exists()


def begun(storage: Path, toy: Any) -> Extraction:
    extraction = Extraction(open_source("pages", storage), toy.corpora, storage)
    extraction.begin()
    return extraction


def test_a_source_that_changed_since_its_units_were_begun_is_refused(storage: Path, toy: Any) -> None:
    first = begun(storage, toy)
    scan_unit(first.source.units[0], toy.corpora, first.scan_folder)
    begun(storage, toy)  # the same again
    whole = (storage / "pages" / "b.parquet").read_bytes()
    toy.write(storage / "pages" / "b.parquet", toy.pages(toy.car, range(31)))
    with pytest.raises(
        UserError, match=r"source: found 'pages' changed .*: b\.parquet has .* bytes, had .*; allowed: "
    ):
        begun(storage, toy)
    (storage / "pages" / "b.parquet").write_bytes(whole)
    toy.write(storage / "pages" / "c.parquet", toy.pages(toy.news, range(3)))
    with pytest.raises(UserError, match=r"c\.parquet was not there"):
        begun(storage, toy)
    (storage / "pages" / "c.parquet").rename(storage / "pages" / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet has"):
        begun(storage, toy)
    (storage / "pages" / "b.parquet").write_bytes(whole)
    assert begun(storage, toy).missing_units() == [first.source.units[1]]
    other = {**toy.corpora, "car": toy.corpora["car"].model_copy(update={"min_score": 51.0})}
    (storage / "pages" / "b.parquet").unlink()
    Extraction(open_source("pages", storage), other, storage).begin()  # nothing was made with these
    shutil.rmtree(first.scan_folder)
    begun(storage, toy)
