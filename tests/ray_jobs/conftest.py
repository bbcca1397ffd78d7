"""Storages on the data of the grid that the tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos.lab import Lab


@pytest.fixture
def other(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """A storage on the same data, without any stage."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(lab.calm / "data")
    yield tmp_path / "other"
    (tmp_path / "other" / "data").unlink()
