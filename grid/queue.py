"""Which cell is trained next, and what becomes of one whose process is lost. Knows nothing of Ray."""

from dataclasses import dataclass

from grid.cells import Cell

RETRIES = 2  # of a cell that is lost again and again without getting on


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: `finished`, `diverged`, `failed` or `stopped`, and why; `running` of one that has not."""

    status: str
    reason: str | None = None


class Queue:
    """Which cells wait, run and are done. `missing` holds the stages that are not finished, by identity."""

    def __init__(self, cells: list[Cell], missing: set[str], retries: int) -> None:
        self.waiting, self.missing, self.retries = list(cells), set(missing), retries
        self.running: dict[str, Cell] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._steps = {cell.name: {i: stage.steps for i, stage in cell.needed.items()} for cell in cells}
        self._furthest = dict.fromkeys(self._steps, (-1, -1))
        self._losses = dict.fromkeys(self._steps, 0)
        self._in_vain = False

    def next(self) -> Cell | None:
        """Of the cells that need no stage that is being trained, the one with most steps ahead; it waits no more.

        So what many others wait for comes early, and cells that share a stage that is missing start apart.
        """
        if self._in_vain:
            return None
        busy = {identity for cell in self.running.values() for identity in self.lacks(cell)}
        free = (cell for cell in self.waiting if busy.isdisjoint(self.lacks(cell)))
        cell = max(free, key=lambda cell: sum(self.lacks(cell).values()), default=None)
        self._in_vain = cell is None
        if cell:
            self.waiting.remove(cell)
        return cell

    def begin(self, trial: str, cell: Cell) -> None:
        """The trial trains the cell."""
        self.running[trial] = cell

    def lacks(self, cell: Cell) -> dict[str, int]:
        """The steps of each stage that the cell needs and that is not finished."""
        return {identity: steps for identity, steps in self._steps[cell.name].items() if identity in self.missing}

    def reached(self, trial: str, identity: str, step: int) -> None:
        """The trial's cell is at a step of a stage: if it has never been that far, what it lost before is forgiven."""
        cell = self.running[trial].name
        here = list(self._steps[cell]).index(identity), step
        if here > self._furthest[cell]:
            self._furthest[cell], self._losses[cell] = here, 0

    def trained(self, identity: str) -> None:
        """A stage is finished: who has waited for it may start, though the cell that trained it goes on."""
        self.missing.discard(identity)
        self._in_vain = False

    def lost(self, trial: str, reason: str) -> dict[str, Outcome]:
        """The trial's process is gone: its cell waits again, or fails, which is returned, if that happens too often."""
        cell = self.running[trial]
        self._losses[cell.name] += 1
        if self._losses[cell.name] > self.retries:
            return self.done(trial, Outcome("failed", reason), None)
        del self.running[trial]
        self.waiting.append(cell)
        self._in_vain = False
        return {}

    def done(self, trial: str, outcome: Outcome, stage: str | None) -> dict[str, Outcome]:
        """Note how a cell ended; returns the outcomes it settles: its own, and those of cells on the same bad stage."""
        cell = self.running.pop(trial)
        self._in_vain = False
        if outcome.status == "finished":
            self.missing -= cell.needed.keys()
        settled = {cell.name: outcome}
        if outcome.status != "finished" and stage:
            settled |= {other.name: outcome for other in self.waiting if stage in other.needed}
            self.waiting = [other for other in self.waiting if other.name not in settled]
        self.outcomes |= settled
        return settled
