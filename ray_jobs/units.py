"""Units of work through Ray Data: data never travels, each task writes its own files and hands back a row about it."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from grid.progress import SECONDS_BETWEEN_LINES, clock

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BLOCKS = 1000  # of a Ray Data set; each has its cost, and a task may take several units

Row = dict[str, Any]


def each_unit(units: Sequence[Row], task: Callable[[Row], Row]) -> Iterator[Row]:
    """What `task` says of each unit, as they are done, in parallel; starts Ray where it does not run.

    A task returns what a user can mend as part of its row: an exception would arrive wrapped in Ray's own.
    """
    from grid.cluster import ensure_ray

    ensure_ray()
    import ray.data

    def run(batch: "pa.Table") -> "pa.Table":
        import pyarrow

        return pyarrow.Table.from_pylist([task(unit) for unit in batch.to_pylist()])

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = ray.data.from_items(list(units), override_num_blocks=min(len(units), MAX_BLOCKS))
    yield from items.map_batches(run, batch_size=1, batch_format="pyarrow").iter_rows()


class RowProgress:
    """How many rows are done, how fast, and the time left, on standard error.

    One line that is written over on a terminal, else a line every few seconds.
    """

    def __init__(self, verb: str, rows: int) -> None:
        self.verb, self.total, self.rows, self.bytes = verb, rows, 0, 0
        self.kept: int | None = None
        self.live = sys.stderr.isatty()
        self.started = self.printed = time.monotonic()

    def done(self, rows: int, size: int = 0, kept: int | None = None) -> None:
        """So many rows more; of `size` decoded bytes, and so many of them kept, where that is known."""
        self.rows, self.bytes = self.rows + rows, self.bytes + size
        if kept is not None:
            self.kept = (self.kept or 0) + kept
        if self.live or time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            self._print()

    def end(self) -> None:
        """All is done."""
        self._print()
        if self.live:
            print(file=sys.stderr)

    def _print(self) -> None:
        self.printed = time.monotonic()
        elapsed = max(self.printed - self.started, 1e-9)
        left = f", about {clock(elapsed * (self.total - self.rows) / self.rows)} left" if self.rows else ""
        parts = [f"[{clock(elapsed)}{left}] {self.verb} {self.rows:,} of {self.total:,} rows"]
        parts += [f"{self.bytes / 1e6 / elapsed:,.1f} MB/s" if self.bytes else f"{self.rows / elapsed:,.0f} a second"]
        parts += [] if self.kept is None else [f"kept {self.kept:,}"]
        text = ", ".join(parts)
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)
