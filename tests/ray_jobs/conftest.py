"""One finished grid for the tests of the programs, and storages on its data."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

import grid  # noqa: F401 - sets what Ray reads when it is imported
from benchmarks.chaos import lab


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Path, str]:
    """A storage with the finished grid of small.yaml, and what the program printed; one for all of pytest's workers."""
    base = tmp_path_factory.getbasetemp()
    storage = (base if worker_id == "master" else base.parent) / "finished"
    output = storage / "output.txt"
    with FileLock(f"{storage}.lock"):
        if not output.exists():
            storage.mkdir()
            (storage / "small.yaml").write_text(yaml.safe_dump(lab.GRID))
            command = [sys.executable, "-m", "ray_jobs.run_grid", str(storage / "small.yaml"), f"storage={storage}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            assert done.returncode == 0, done.stdout
            assert "Traceback" not in done.stdout
            output.write_text(done.stdout)
    return storage, output.read_text()


@pytest.fixture
def other(finished: tuple[Path, str], tmp_path: Path) -> Iterator[Path]:
    """Another storage on the same data, without any stage."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(finished[0] / "data")
    yield tmp_path / "other"
    (tmp_path / "other" / "data").unlink()
