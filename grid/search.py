"""Hand the cells to Ray Tune: one trial a cell, held back only while another trial trains a stage it needs."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.search import Searcher

from grid.cells import Cell
from grid.cluster import ensure_ray
from grid.progress import Progress
from grid.queue import RETRIES, Outcome, Queue
from grid.trial import CellTrial, Setup
from lethe.files import whole

SLEPT = 30.0  # seconds between two looks at the trials, which are many a second
MOST_AT_ONCE = 1000  # placement groups that a head copes with
LOST = "its process was lost"
FROZEN = "its process gave no sign of life, and was killed"
OUT_OF_MEMORY = "its process, or one beside it, was killed because the machine was out of memory"
NOT_RUN = Outcome("stopped", "it was not run")


Follow = Callable[[str, Outcome | None], None]


class CellSearch(Searcher):
    """Ray Tune's view of the queue."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(metric=None, mode=None)
        self.queue = queue

    def suggest(self, trial_id: str) -> Any:
        """The next cell; None to be asked again, for one that runs may be lost and wait again; at the end FINISHED."""
        cell = self.queue.next()
        if cell is None:
            assert self.queue.running or not self.queue.waiting, "cells wait for a stage that nobody trains"
            return None if self.queue.running else Searcher.FINISHED
        self.queue.begin(trial_id, cell)
        return {"cell": cell.name, "finished": [i for i in cell.needed if i not in self.queue.missing]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: Tune calls the callback right after, which knows the reason too."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the stage store is the state, and a run is never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class Pulse:
    """When a trial was last heard of. It is frozen after so many seconds of silence, but 20 times its longest yet.

    The first silence, in which its process starts, says nothing of those to come. `killed`: it was taken for frozen.
    """

    def __init__(self, trial: Any, frozen_after: float) -> None:
        self.trial, self.limit, self.last = trial, frozen_after, time.monotonic()
        self.has_begun = self.killed = False

    def beat(self) -> None:
        now = time.monotonic()
        if self.has_begun:
            self.limit = max(self.limit, 20 * (now - self.last))
        self.has_begun, self.last = True, now

    @property
    def is_frozen(self) -> bool:
        return time.monotonic() - self.last > self.limit


class _Watch(tune.Callback):
    """What Ray Tune tells of the trials, to the queue, to people, and to who wants to know how a cell ended.

    The whole story of a failure is kept in the folder `errors`.
    """

    def __init__(self, queue: Queue, progress: Progress, setup: Setup, follow: Follow) -> None:
        self.queue, self.progress, self.follow = queue, progress, follow
        self.errors = setup.scratch.with_name("errors")
        self.frozen_after = {
            cell.name: math.inf if setup.resources[cell.model].workers > 1 else setup.frozen_after  # ranks watch ranks
            for cell in queue.waiting
        }
        self.heard: dict[str, Pulse] = {}
        self.looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps its callbacks for a later restore, which never comes

    def _listen(self, trial: Any) -> None:
        self.heard[trial.trial_id] = Pulse(trial, self.frozen_after[trial.config["cell"]])

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.progress.begun(trial.config["cell"])
        self._listen(trial)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self.heard[trial.trial_id].beat()
        if result["status"] == "running":
            self.queue.reached(trial.trial_id, result["stage"], result["step"])
            self.progress.evaluated(trial.config["cell"], result["stage"], result["step"], result["values"])
            self.follow(trial.config["cell"], None)
        elif result["status"] == "trained":
            self.queue.trained(result["stage"])
            self.progress.trained(result["stage"])

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        self.progress.beat()
        since, self.looked = self.looked, time.monotonic()
        new = self.queue.running.keys() - self.heard.keys()  # a process may be frozen when it is handed its next cell
        for trial in reversed(trials if new else []):
            if trial.trial_id in new:
                self._listen(trial)
                new.remove(trial.trial_id)
            if not new:
                break
        for pulse in self.heard.values():
            if self.looked - since > SLEPT:
                pulse.last += self.looked - since  # it is the driver that was stopped for a while
            if pulse.is_frozen and not pulse.killed and pulse.trial.temporary_state.ray_actor:
                ray.kill(pulse.trial.temporary_state.ray_actor)  # Tune finds it dead then
                pulse.killed = True

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        result = trial.last_result
        reason = result.get("reason")
        if "story" in result:
            reason = f"{reason} ({self._keep(trial, result['story'])})"
        del self.heard[trial.trial_id]
        self._end(self.queue.done(trial.trial_id, Outcome(result["status"], reason), result.get("stage")))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        story = Path(trial.error_file).read_text()
        pulse = self.heard.pop(trial.trial_id, None)
        why = OUT_OF_MEMORY if "low on memory" in story else LOST
        if pulse and pulse.killed:
            why = FROZEN
        self.lost(trial.trial_id, f"{why} ({self._keep(trial, story)})")

    def _keep(self, trial: Any, story: str) -> Path:
        file = self.errors / f"{trial.config['cell']}.txt"
        with whole(file) as temporary:
            temporary.write_text(story)
        return file

    def lost(self, trial: str, reason: str) -> None:
        """A trial's process is gone: its cell is tried again, or fails for that reason if that happens too often."""
        self.heard.pop(trial, None)
        self.progress.lost(self.queue.running[trial].name, reason)
        self._end(self.queue.lost(trial, reason))

    def _end(self, outcomes: dict[str, Outcome]) -> None:
        for name, outcome in outcomes.items():
            self.progress.settled(name, outcome.status, outcome.reason)
            self.follow(name, outcome)


def train_cells(
    pending: list[Cell],
    missing: set[str],
    setup: Setup,
    progress: Progress,
    follow: Follow,
    retries: int = RETRIES,
) -> dict[str, Outcome]:
    """Train the pending cells; `follow(cell, outcome)` is called as each ends, and with None as it is evaluated.

    Ray must be running.

    A cell whose process is lost so often, without getting further, has failed; else it goes on from its checkpoint.
    Returns how each ended; the scratch is removed before and afterwards.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it would print what goes wrong, whole
    queue = Queue(pending, missing, retries)
    watch = _Watch(queue, progress, setup, follow)
    shutil.rmtree(setup.scratch, ignore_errors=True)  # of a run that was killed
    try:
        while True:
            try:
                _tuner(pending, setup, queue, watch).fit()
                return {cell.name: queue.outcomes.get(cell.name, NOT_RUN) for cell in pending}
            except RuntimeError as error:  # Tune takes a process killed for want of memory for an error of its own
                if not isinstance(error.__cause__, OutOfMemoryError):
                    raise
            ray.shutdown()  # with the cells that still run
            ensure_ray()
            for trial in list(queue.running):
                watch.lost(trial, OUT_OF_MEMORY)
    finally:
        shutil.rmtree(setup.scratch, ignore_errors=True)


def _tuner(pending: list[Cell], setup: Setup, queue: Queue, watch: tune.Callback) -> tune.Tuner:
    cells = {cell.name: cell for cell in pending}

    def resources(config: Mapping[str, str]) -> tune.PlacementGroupFactory:
        mine = setup.resources[cells[config["cell"]].model]
        if mine.workers > 1:  # the trial only drives a TorchTrainer, which claims the workers' resources itself
            return tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
        return tune.PlacementGroupFactory([{"CPU": mine.cpus} | ({"GPU": mine.gpus} if mine.gpus else {})])

    return tune.Tuner(
        tune.with_resources(tune.with_parameters(CellTrial, cells=cells, setup=setup), resources),
        tune_config=tune.TuneConfig(
            search_alg=CellSearch(queue),
            num_samples=-1,
            max_concurrent_trials=slots(setup),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=setup.scratch.name,
            storage_path=str(setup.scratch.parent),
            verbose=0,
            callbacks=[watch],
        ),
    )


def slots(setup: Setup) -> int:
    """How many cells the cluster can train at once: as many as of the least demanding model."""
    if any(asked.autoscaled for asked in setup.resources.values()):
        return MOST_AT_ONCE  # a cluster grows by what waits for it
    have = ray.cluster_resources()
    fits = [
        min(
            have.get("CPU", 0) // (r.cpus * r.workers),
            have.get("GPU", 0) // (r.gpus * r.workers) if r.gpus else float("inf"),
        )
        for r in setup.resources.values()
    ]
    return max(1, min(int(max(fits)), MOST_AT_ONCE))
