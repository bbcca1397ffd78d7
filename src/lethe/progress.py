"""What happens now and how long it takes, as plain lines on the terminal; and tables there."""

import sys
import time
from collections.abc import Callable, Sequence

SECONDS_BETWEEN_LINES = 5.0


class RowProgress:
    """How many rows are done, how fast, and the time left, on standard error.

    One line that is written over on a terminal, else a line every few seconds. `rows` is None where nobody knows how
    many there are.
    """

    def __init__(self, verb: str, rows: int | None) -> None:
        self.verb, self.total, self.rows, self.bytes = verb, rows, 0, 0
        self.kept: int | None = None
        self.live = sys.stderr.isatty()
        self.started = self.printed = time.monotonic()

    def done(self, rows: int, size: int, kept: int | None) -> None:
        """So many rows more; of `size` decoded bytes (0: unknown), and so many of them kept, where that is known."""
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
        left, of = "", ""
        if self.total is not None:
            of = f" of {self.total:,}"
            left = f", about {clock(elapsed * (self.total - self.rows) / self.rows)} left" if self.rows else ""
        parts = [f"[{clock(elapsed)}{left}] {self.verb} {self.rows:,}{of} rows"]
        parts += [f"{self.bytes / 1e6 / elapsed:,.1f} MB/s" if self.bytes else f"{self.rows / elapsed:,.0f} a second"]
        parts += [] if self.kept is None else [f"kept {self.kept:,}"]
        text = ", ".join(parts)
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def aligned(rows: Sequence[Sequence[str]], pad: Callable[[str, int], str] = str.ljust) -> list[str]:
    """A line for each row, in which columns stand one below the other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(pad(word, width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def say(text: str) -> None:
    """One line about what happens next, on standard error, so that standard output stays what was asked for."""
    print(text, file=sys.stderr, flush=True)
