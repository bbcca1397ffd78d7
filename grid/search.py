"""Hand the cells to Ray Tune: one trial a cell, held back only while another trial trains a stage it needs."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from grid.cells import Cell
from grid.progress import Progress
from grid.tree import Tree, needed_stages
from grid.trial import CellTrial, Setup


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: `finished`, `diverged` or `failed`, and why."""

    status: str
    reason: str | None = None


@dataclass
class Queue:
    """Which cells wait, run and are done. `missing` holds the stages that are not finished."""

    waiting: list[Cell]
    missing: set[str]
    running: dict[str, Cell] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def next(self) -> Cell | None:
        """The first waiting cell that needs no stage that is being trained."""
        busy = {identity for cell in self.running.values() for identity in self.lacks(cell)}
        for i, cell in enumerate(self.waiting):
            if busy.isdisjoint(self.lacks(cell)):
                return self.waiting.pop(i)
        return None

    def lacks(self, cell: Cell) -> set[str]:
        return needed_stages(cell).keys() & self.missing

    def done(self, cell: Cell, outcome: Outcome, stage: str | None) -> dict[str, Outcome]:
        """Note how a cell ended; returns the outcomes it settles: its own, and those of cells on the same bad stage."""
        if outcome.status == "finished":
            self.missing -= needed_stages(cell).keys()
        settled = {cell.name: outcome}
        if outcome.status != "finished" and stage:
            lost = [other for other in self.waiting if stage in needed_stages(other)]
            self.waiting = [other for other in self.waiting if other not in lost]
            settled |= {other.name: outcome for other in lost}
        self.outcomes |= settled
        return settled


def order(tree: Tree, cells: list[Cell]) -> list[Cell]:
    """Longest first, and cells that share their first stage apart, so that slots do not wait for one root."""
    seen: Counter[str] = Counter()
    ranked = []
    for cell in sorted(cells, key=lambda cell: -sum(stage.steps for stage in cell.stages)):
        root = cell.stages[0].identity
        ranked.append((seen[root], cell))
        seen[root] += 1
    return [cell for _, cell in sorted(ranked, key=lambda pair: pair[0])]


class CellSearch(Searcher):
    """Ray Tune's view of the queue."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(metric=None, mode=None)
        self.queue = queue

    def suggest(self, trial_id: str) -> Any:
        """The next cell, None to be asked again, FINISHED when none is left."""
        if not self.queue.waiting:
            return Searcher.FINISHED
        cell = self.queue.next()
        if cell is None:
            assert self.queue.running, "cells wait for a stage that nobody trains"
            return None
        self.queue.running[trial_id] = cell
        return {"cell": cell.name}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: Tune calls the callback right after, which knows the reason too."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the stage store is the state, and a run is never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _Watch(tune.Callback):
    def __init__(self, queue: Queue, progress: Progress, settled: Callable[[str, Outcome], None]) -> None:
        self.queue, self.progress, self.settled = queue, progress, settled

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if result.get("status") == "running":
            self.progress.evaluated(trial.config["cell"], result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        result = trial.last_result
        self._settle(trial, Outcome(result["status"], result.get("reason")), result.get("stage"))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        reason = str(trial.get_pickled_error() or "").strip().splitlines()
        self._settle(trial, Outcome("failed", reason[-1] if reason else "the trial's process was lost"), None)

    def _settle(self, trial: Any, outcome: Outcome, stage: str | None) -> None:
        cell = self.queue.running.pop(trial.trial_id)
        for name, its_outcome in self.queue.done(cell, outcome, stage).items():
            self.settled(name, its_outcome)


def train_cells(
    tree: Tree, pending: list[Cell], missing: set[str], setup: Setup, settled: Callable[[str, Outcome], None]
) -> dict[str, Outcome]:
    """Train the pending cells; `settled(cell, outcome)` is called for each as it ends. Ray must be running."""
    cells = {cell.name: cell for cell in pending}
    queue = Queue(order(tree, pending), set(missing))
    progress = Progress(tree, pending, missing)

    def note(name: str, outcome: Outcome) -> None:
        progress.settled(name, outcome.status, outcome.reason)
        settled(name, outcome)

    def resources(config: Mapping[str, str]) -> tune.PlacementGroupFactory:
        mine = setup.resources[cells[config["cell"]].model]
        if mine.workers > 1:  # the trial only drives a TorchTrainer, which claims the workers' resources itself
            return tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
        return tune.PlacementGroupFactory([{"CPU": mine.cpus} | ({"GPU": mine.gpus} if mine.gpus else {})])

    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(CellTrial, cells=cells, setup=setup), resources),
        tune_config=tune.TuneConfig(
            search_alg=CellSearch(queue),
            num_samples=-1,
            max_concurrent_trials=slots(setup),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=tree.grid.name,
            storage_path=str(setup.scratch),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[_Watch(queue, progress, note)],
        ),
    )
    tuner.fit()
    return queue.outcomes


def slots(setup: Setup) -> int:
    """How many cells the cluster can train at once: as many as of the least demanding model."""
    import ray

    have = ray.cluster_resources()
    fits = [
        min(
            have.get("CPU", 0) // (r.cpus * r.workers),
            have.get("GPU", 0) // (r.gpus * r.workers) if r.gpus else float("inf"),
        )
        for r in setup.resources.values()
    ]
    return max(1, int(max(fits)))
