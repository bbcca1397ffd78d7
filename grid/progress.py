"""What runs, what is done, the losses, and the time left, as plain lines on the terminal."""

import time
from typing import Any

from grid.cells import Cell
from grid.tree import Tree, needed_stages
from lethe.progress import SECONDS_BETWEEN_LINES, clock


class Progress:
    """Counts trained tokens against those still to train; prints at most a line every few seconds."""

    def __init__(self, tree: Tree, pending: list[Cell], missing: set[str]) -> None:
        self.tree, self.cells = tree, {cell.name: cell for cell in pending}
        self.left = {identity: tree.stages[identity].steps for identity in missing}
        self.weight = {identity: tree.stages[identity].tokens_per_step for identity in missing}
        self.total = self._tokens_left()
        self.started = self.printed = time.monotonic()
        self.done = 0

    def evaluated(self, cell: str, result: dict[str, Any]) -> None:
        """A stage of the cell was evaluated at `step`."""
        stage = self.tree.stages[result["stage"]]
        if stage.identity in self.left:
            self.left[stage.identity] = min(self.left[stage.identity], stage.steps - result["step"])
        if time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            losses = " ".join(
                f"{n.split('/')[1]} {v:.2f}" for n, v in result["values"].items() if n.startswith("loss/")
            )
            where = list(needed_stages(self.cells[cell])).index(stage.identity) + 1
            self._print(f"{cell} stage {where}: step {result['step']}/{stage.steps}, {losses}")

    def settled(self, cell: str, status: str, reason: str | None) -> None:
        """A cell ended."""
        self.done += 1
        if status == "finished":
            for identity in needed_stages(self.cells[cell]):
                self.left.pop(identity, None)
        self._print(f"{cell} {status}" + (f": {reason}" if reason else ""))

    def _tokens_left(self) -> int:
        return sum(steps * self.weight[identity] for identity, steps in self.left.items())

    def _print(self, text: str) -> None:
        self.printed = time.monotonic()
        elapsed, left = self.printed - self.started, self._tokens_left()
        trained = self.total - left
        eta = f", about {clock(elapsed * left / trained)} left" if trained else ""
        print(f"[{clock(elapsed)}{eta}] {self.done}/{len(self.cells)} cells  {text}", flush=True)
