"""What a grid is doing: how many cells are done, run, failed and wait, the losses, the speed, and the time left.

The driver shows it, live on a terminal and as plain lines elsewhere, and keeps it in runs/NAME/progress.json, from
which `ray_jobs.status` shows the same on any machine.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from grid.spec import Grid
from grid.tree import Tree
from lethe.files import write_json
from lethe.progress import SECONDS_BETWEEN_LINES, clock, say

SILENCE = 120  # seconds without a sign of life after which a driver is taken for dead
SNAPSHOT = {"name", "host", "pid", "updated", "ended", "seconds", "seconds_left", "tokens_per_second"}
SNAPSHOT |= {"cells", "running", "failed"}  # what others read of it
SHOWN = 20  # cells of a kind at most


class Progress:
    """Counts trained tokens against those still to train. As a context it shows what it counts, and keeps it in `file`.

    `missing` holds the identities of the stages to train. With `quiet` nothing is shown but what goes wrong.
    """

    def __init__(self, tree: Tree, missing: set[str], file: Path | None = None, quiet: bool = False) -> None:
        self.tree, self.file, self.quiet, self.live = tree, file, quiet, sys.stdout.isatty() and not quiet
        self.cells = {cell.name: cell for cell in tree.cells}
        self.left = {identity: tree.stages[identity].steps for identity in missing}
        self.weight = {identity: tree.stages[identity].tokens_per_step for identity in missing}
        self.finished = {cell.name for cell in tree.cells if not cell.needed.keys() & missing}
        self.running: dict[str, dict[str, Any]] = {}
        self.bad: dict[str, dict[str, str | None]] = {}
        self.total = self._tokens_left()
        self.ended: float | None = None
        self.unsent: str | None = "not all runs may be in MLflow"
        self.began, self.started = time.time(), time.monotonic()
        self.printed = self.kept = self.started
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._keep()
        if self.live:
            from rich.live import Live
            from rich.text import Text

            view = Live(get_renderable=lambda: Text("\n".join(describe(self.snapshot()))), refresh_per_second=2)
            self._stack.enter_context(view)
        return self

    def __exit__(self, *error: object) -> None:
        self.running.clear()
        self.ended = time.time()
        self._keep()
        self._stack.close()

    def begun(self, cell: str) -> None:
        """A cell is being trained."""
        self.running.setdefault(cell, {})

    def evaluated(self, cell: str, identity: str, step: int, values: Mapping[str, float]) -> None:
        """A stage of the cell was evaluated at `step`."""
        stage = self.tree.stages[identity]
        if identity in self.left:
            self.left[identity] = min(self.left[identity], stage.steps - step)
        needed = list(self.cells[cell].needed)
        losses = [(name.split("/")[1], value) for name, value in values.items() if name.startswith("loss/")]
        where = {"stage": needed.index(identity) + 1, "of": len(needed), "step": step, "steps": stage.steps}
        self.running[cell] = where | {"losses": losses}
        if time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            self._line(cell, _doing(self.running[cell]))
        self.beat()

    def lost(self, cell: str, reason: str) -> None:
        """A cell's process is gone."""
        self.running.pop(cell, None)
        self._line(cell, f"lost: {reason}", wrong=True)

    def trained(self, identity: str) -> None:
        """A stage is finished."""
        self.left.pop(identity, None)

    def settled(self, cell: str, status: str, reason: str | None) -> None:
        """A cell ended."""
        self.running.pop(cell, None)
        if status == "finished":
            self.finished.add(cell)
        else:
            self.bad[cell] = {"status": status, "reason": reason}
        self._line(cell, f"{status}: {reason}" if reason else status, wrong=status != "finished")
        self._keep()

    def sent(self, unsent: str | None) -> None:
        """MLflow has all; else why not. Until then it counts as not known."""
        self.unsent = unsent
        self._keep()

    def beat(self) -> None:
        """To be called often: keeps what is counted every few seconds, so that others see that the driver lives."""
        if time.monotonic() - self.kept >= SECONDS_BETWEEN_LINES:
            self._keep()

    def snapshot(self) -> dict[str, Any]:
        """All of it, as JSON. Times are seconds since the epoch; of what was done before only the cells count."""
        elapsed, left = time.monotonic() - self.started, self._tokens_left()
        speed = (self.total - left) / elapsed if elapsed else 0
        counts = {"finished": len(self.finished), "running": len(self.running), "failed": len(self.bad)}
        return {
            "name": self.tree.grid.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": self.began,
            "updated": time.time(),
            "ended": self.ended,
            "unsent": self.unsent,
            "seconds": elapsed,
            "seconds_left": left / speed if speed else None,
            "tokens_per_second": speed,
            "cells": counts | {"waiting": len(self.cells) - sum(counts.values())},
            "running": self.running,
            "failed": self.bad,
        }

    def _keep(self) -> None:
        self.kept = time.monotonic()
        if self.file:
            write_json(self.file, self.snapshot())
            if bucket := self.tree.grid.mirror:
                with suppress(OSError):  # the next one is a few seconds away
                    bucket.push(self.file)

    def _tokens_left(self) -> int:
        return sum(steps * self.weight[identity] for identity, steps in self.left.items())

    def _line(self, cell: str, text: str, wrong: bool = False) -> None:
        self.printed = time.monotonic()
        if self.live or (self.quiet and not wrong):
            return
        now = self.snapshot()
        left = "" if now["seconds_left"] is None else f", about {clock(now['seconds_left'])} left"
        done = f"{now['cells']['finished'] + now['cells']['failed']}/{len(self.cells)} cells"
        print(f"[{clock(now['seconds'])}{left}] {done}  {cell} {text}", flush=True)


def progress_file(grid: Grid) -> Path:
    return grid.folder / "progress.json"


def read(grid: Grid) -> dict[str, Any] | None:
    """The last snapshot that a driver of the grid kept; None where there is none."""
    if bucket := grid.mirror:
        with suppress(OSError):
            bucket.pull(progress_file(grid))
    path = progress_file(grid)
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if {*found} >= SNAPSHOT and isinstance(found["cells"], dict):
            return found
    except OSError:
        return None
    except (ValueError, TypeError):
        pass
    say(f"note: {path}: found no progress of a grid; it counts as none")
    return None


def describe(now: Mapping[str, Any]) -> list[str]:
    """A snapshot for people."""
    counts, speed = now["cells"], now["tokens_per_second"]
    left = "" if now["seconds_left"] is None or now["ended"] else f", about {clock(now['seconds_left'])} left"
    lines = [f"{now['name']}: " + ", ".join(f"{n:,} {state}" for state, n in counts.items() if n or state != "failed")]
    lines.append(f"{clock(now['seconds'])} so far{left}" + (f"; {speed:,.0f} tokens a second" if speed else ""))
    lines += _some("running", {cell: _doing(where) for cell, where in now["running"].items()})
    return lines + _some("failed", {cell: f"{it['status']}: {it['reason']}" for cell, it in now["failed"].items()})


def life(now: Mapping[str, Any]) -> str:
    """Whether the driver that kept a snapshot is there still, for people."""
    driver, silent = f"{now['host']}, pid {now['pid']}", time.time() - now["updated"]
    if now["ended"]:
        unsent = f"; {now['unsent']}: the same command sends them" if now.get("unsent") else ""
        return f"ended {clock(time.time() - now['ended'])} ago ({driver}){unsent}"
    if silent > SILENCE:
        return f"no sign of life for {clock(silent)} ({driver}): if it is gone, the same command goes on"
    return f"running ({driver})"


def _some(state: str, cells: Mapping[str, str]) -> list[str]:
    lines = [f"  {state}  {cell} {text}" for cell, text in list(cells.items())[:SHOWN]]
    return lines + ([f"  {state}  and {len(cells) - SHOWN:,} more"] if len(cells) > SHOWN else [])


def _doing(where: Mapping[str, Any]) -> str:
    if not where:
        return "starts"
    losses = "loss " + " ".join(f"{corpus} {loss:.2f}" for corpus, loss in where["losses"])
    return f"stage {where['stage']}/{where['of']}: step {where['step']}/{where['steps']}, {losses}"
