"""The whole extraction killed at random moments, and on a source that breaks: the end is that of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "corpora"))
from misbehaving import serve

from lethe.corpora.source import open_source
from lethe.files import sha256

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

GRID = """
corpora: [food, automotive]
models: [tiny]
baselines: [sequential_ab]
source: pages/*.parquet
stage: {tokens: 100000, batch: 8, learning_rate: 0.001}
"""
FILES, KILLS, SEED = 12, 30, 5


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


def start(storage: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ray_jobs.extract", str(storage / "grid.yaml"), f"storage={storage}", *overrides]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(storage: Path, *overrides: str) -> tuple[dict[str, str], float]:
    """The hash of every file the program leaves, and how long it ran."""
    started = time.monotonic()
    process = start(storage, *overrides)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    files = [path for path in (storage / "data").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(storage)): sha256(path) for path in files}, time.monotonic() - started


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the program and all below it, wherever they have put their groups and sessions."""
    family, size = {process.pid}, 0
    while len(family) > size:
        size = len(family)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent in family:
                family.add(int(stat.parent.name))
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def finished_units(storage: Path) -> int:
    return len(list((storage / "data").rglob("units-*/*/manifest.json")))


def kill_at_random(storage: Path, rng: random.Random, seconds: float, by_units: bool) -> bool:
    """Start the program and kill it at some time, or soon after some unit is finished; whether it still ran."""
    process, units = start(storage), rng.randint(1, FILES)
    until = time.monotonic() + (3 * seconds if by_units else rng.uniform(0, seconds))
    while time.monotonic() < until and process.poll() is None and not (by_units and finished_units(storage) >= units):
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.3))
    running = process.poll() is None
    kill_tree(process)
    return running


def test_killed_thirty_times_the_files_are_the_same(storage: Path) -> None:
    expected, seconds = finish(storage)
    assert sum(name.endswith(".parquet") for name in expected) >= 4
    rng, interrupted, halfway = random.Random(SEED), 0, 0
    for kill in range(KILLS):
        if kill % 3 == 0:  # three of one extraction, each going on from the last
            shutil.rmtree(storage / "data", ignore_errors=True)
        interrupted += kill_at_random(storage, rng, seconds, by_units=kill % 2 == 0)
        halfway += finished_units(storage) > 0
        if kill % 3 == 2:
            assert finish(storage)[0] == expected
    print(f"{interrupted} of {KILLS} kills met it running, {halfway} left finished units behind")
    assert interrupted >= KILLS / 2
    assert halfway > 0


def test_a_source_that_breaks_is_named_and_what_was_made_is_kept(storage: Path) -> None:
    for left in ("data", "local"):
        shutil.rmtree(storage / left, ignore_errors=True)
    expected, _ = finish(storage)
    shutil.move(storage / "data", storage / "local")
    with serve(storage / "pages") as server:
        given = f"source={server.url}/files/"
        # Every file answers when it is listed, and the last one never again.
        server.fault = lambda number, path: "503" if number >= FILES and path.endswith("11.parquet") else ""
        process = start(storage, given)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 2, output
        assert "Traceback" not in output
        assert "11.parquet: still broken after 8 tries" in output.splitlines()[-1]
        assert len(list((storage / "data").rglob("units-*/*/manifest.json"))) == FILES - 1
        server.fault = lambda number, path: ""
        asked = len(server.asked)
        again, _ = finish(storage, given)
        assert {path for _, path, _ in server.asked[asked + FILES :]} == {"/files/11.parquet"}
    pages = {name: digest for name, digest in expected.items() if name.endswith(".parquet")}
    assert {name: digest for name, digest in again.items() if name.endswith(".parquet")} == pages
