"""The whole extraction killed at random moments, and on a source that breaks: the end is that of an undisturbed run."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kills import GRID, MARKS, Victim, kill_again_and_again
from misbehaving import serve

from lethe.corpora.source import open_source

pytestmark = MARKS

FILES = 40


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the sample's pages in many files, and so in many units."""
    storage = tmp_path_factory.mktemp("kills")
    open_source("sample", storage)
    pages = pa.concat_tables(pq.read_table(path) for path in sorted((storage / "data" / "sample").glob("*.parquet")))
    (storage / "pages").mkdir()
    for i in range(FILES):
        part = pages.slice(i * pages.num_rows // FILES, (i + 1) * pages.num_rows // FILES - i * pages.num_rows // FILES)
        pq.write_table(part, storage / "pages" / f"{i:02}.parquet", row_group_size=200)
    shutil.rmtree(storage / "data")
    (storage / "grid.yaml").write_text(GRID)
    return storage


@pytest.fixture
def victim(storage: Path) -> Victim:
    piece = r"data/corpora/(units-\w+/\w+|\w+-\w+)/manifest\.json"
    return Victim("extract", storage, ("data",), piece, FILES)


def test_killed_again_and_again_the_files_are_the_same(victim: Victim) -> None:
    kill_again_and_again(victim, seed=5)


def test_a_source_that_breaks_is_named_and_what_was_made_is_kept(victim: Victim) -> None:
    storage, last = victim.storage, f"{FILES - 1}.parquet"
    victim.wipe()
    victim.run()
    expected = pages(victim)
    victim.wipe()
    with serve(storage / "pages") as server:
        given = f"source={server.url}/files/"
        # Every file answers when it is listed, and the last one never again.
        server.fault = lambda number, path: "503" if number >= FILES and path.endswith(last) else ""
        output, _ = victim.run(given, code=2)
        assert "Traceback" not in output
        assert f"{last}: still broken after 8 tries" in output.splitlines()[-1]
        assert len(list((storage / "data").rglob("units-*/*/manifest.json"))) == FILES - 1
        server.fault = lambda number, path: ""
        asked = len(server.asked)
        victim.run(given)
        assert {path for _, path, _ in server.asked[asked + FILES :]} == {f"/files/{last}"}
    assert pages(victim) == expected


def pages(victim: Victim) -> dict[str, str]:
    """The hashes of all that was kept of the pages."""
    return {name: digest for name, digest in victim.hashes().items() if name.endswith(".parquet")}
