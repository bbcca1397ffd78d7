"""What an index does with files that would take all memory, or that hold objects of programs."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MAX_BYTES = 1_500_000_000  # of a worker
GOOD = 40


@pytest.fixture
def storage(toy: Any, tmp_path: Path) -> Path:
    """A storage with one good file in `pages`."""
    toy.write(tmp_path / "pages" / "a.parquet", toy.pages(toy.soup, range(GOOD)))
    return tmp_path


MEASURED = """
import json, re, sys
from pathlib import Path
from lethe.corpora.index import Index, index_unit
from lethe.corpora.source import open_source
index = Index(open_source("pages", Path(sys.argv[1])), Path(sys.argv[1]))
try:
    for unit in index.missing_units():
        index_unit(unit, index.folder)
    index.finish()
    result = index.manifest["counts"]["rows"]
except Exception as error:
    result = f"{type(error).__name__} {error}"
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(json.dumps([int(peak) * 1024, result]))
"""


@pytest.mark.parametrize(
    ("size", "rows", "dictionary"),
    [
        (10_000_000, 3, False),  # 76
        (1_000_000, 300, True),  # 80: a few hundred bytes that become 300 MB
        pytest.param(20_000_000, 120, True, marks=pytest.mark.slow),  # 2.4 GB
    ],
)
def test_the_memory_of_an_index_is_bounded_whatever_the_addresses(
    storage: Path, toy: Any, size: int, rows: int, dictionary: bool
) -> None:
    table = toy.table([toy.page("onion", i) for i in range(rows)])
    url = "http://a.example/" + "a" * size
    addresses = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([url]))
    column = addresses if dictionary else pa.array([url] * rows)
    table = table.set_column(table.schema.get_field_index("url"), "url", column)
    options = {"use_dictionary": ["url"], "dictionary_pagesize_limit": 2 * size} if dictionary else {}
    path = storage / "pages" / "c.parquet"
    pq.write_table(table, path, compression="zstd", store_schema=False, **({"use_dictionary": False} | options))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, storage], capture_output=True, text=True, timeout=200, check=True
    )
    peak, result = json.loads(done.stdout)
    assert result == GOOD + rows
    assert peak < MAX_BYTES


CANARY = """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from ray.data.extensions import ArrowPythonObjectArray
from lethe.corpora.index import Index, index_unit
from lethe.corpora.source import open_source
class Evil:
    def __reduce__(self):
        return (open, (sys.argv[1] + "/canary", "w"))
storage = Path(sys.argv[1])
table = pq.read_table(storage / "pages" / "a.parquet")
objects = ArrowPythonObjectArray.from_objects([Evil()] * table.num_rows)
nested = pa.StructArray.from_arrays([objects], ["inner"])
pq.write_table(table.append_column("extra", objects).append_column("nested", nested), storage / "pages" / "c.parquet")
index = Index(open_source("pages", storage), storage)
for unit in index.missing_units():
    index_unit(unit, index.folder)
index.finish()
print(index.manifest["counts"]["rows"])
for name in ("id", "url", "dump"):
    spoilt = table.set_column(table.schema.get_field_index(name), name, objects)
    pq.write_table(spoilt, storage / "pages" / "c.parquet")
    print(dict(open_source("pages", storage, "skip").skipped)["c.parquet"])
"""


@pytest.mark.slow
def test_an_index_makes_no_object_of_a_file(storage: Path) -> None:
    """83, in a process that has registered Ray's extension type; the extraction's is in test_extract_faults.py."""
    done = subprocess.run(
        [sys.executable, "-c", CANARY, storage], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    rows, *told = done.stdout.splitlines()
    assert rows == str(2 * GOOD)
    assert [bool(re.search(rf"column {name}: found type .*object", line)) for name, line in zip(
        ("id", "url", "dump"), told, strict=True)] == [True] * 3, told  # fmt: skip
    assert not (storage / "canary").exists()
