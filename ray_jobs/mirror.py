"""The storage of a grid, checked before anything starts; one in a bucket, with its data on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grid.spec import Grid
from lethe.config import UserError
from ray_jobs.units import on_this_node


@contextmanager
def mirrored(grid: Grid) -> Iterator[None]:
    """The grid's storage can be written and read; what is made of its data within is in the bucket afterwards.

    Raises UserError where it cannot.
    """
    if not (bucket := grid.mirror):
        _check(grid.storage)
        yield
        return
    bucket.check()
    data = grid.storage / "data"
    try:
        bucket.pull(data)
        with on_this_node():
            yield
        bucket.push(data)
    except OSError as error:
        raise UserError(f"storage: {grid.bucket}: {error}") from None


def _check(storage: Path) -> None:
    probe = storage / f".check-{os.getpid()}"
    try:
        storage.mkdir(parents=True, exist_ok=True)
        probe.write_text(probe.name)
        if probe.read_text() != probe.name:
            raise UserError(
                f"storage: found {storage}, which does not give back what is written; allowed: one that does"
            )
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"storage: found {storage}, where nothing can be written and read: {error.strerror}; allowed: a folder in "
            "which this user may write"
        ) from None
