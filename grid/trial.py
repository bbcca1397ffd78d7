"""A trial walks the stages of one cell: in its own process with one worker, inside Ray Train with more."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ray import tune

from grid.cells import Cell
from grid.spec import Resources
from grid.tree import needed_stages
from lethe.config import UserError
from lethe.tokens.shards import TokenData
from lethe.training.stage import Evaluation, Stage


@dataclass(frozen=True)
class Setup:
    """What all trials of a grid share: where things lie, what is measured, what each model gets.

    `carried` are the identities of stages whose optimizer state a later stage carries on. `scratch` is where Ray keeps
    its own records of this run; nothing is ever restored from them.
    """

    runs: Path
    tokens: Path
    corpora: tuple[str, ...]
    evaluation: Evaluation
    checkpoint_every: int
    resources: Mapping[str, Resources]
    carried: frozenset[str]
    scratch: Path

    def job(self, stage: Stage) -> Any:
        from lethe.training.job import Job
        from lethe.training.store import StageStore

        store = StageStore(self.runs / "stages")
        return Job(
            stage,
            _open(self.tokens),
            store,
            self.corpora,
            self.evaluation,
            self.checkpoint_every,
            keep_optimizer=stage.identity in self.carried,
        )


@cache
def _open(tokens: Path) -> TokenData:
    return TokenData(tokens)


class CellTrial(tune.Trainable):
    """What Ray Tune runs: the configuration names the cell, and each evaluation is a result.

    Not a function, for Tune runs functions in a thread, and what glibc's allocator does for threads costs a step up to
    a third of its time. What cannot be mended by a retry is reported, not raised.
    """

    def setup(self, config: dict[str, str], cells: Mapping[str, Cell], setup: Setup) -> None:  # type: ignore[override]
        self.cells, self.shared = cells, setup
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, str]) -> bool:
        self.results = train_cell(self.cells[new_config["cell"]], self.shared)
        return True

    def step(self) -> dict[str, Any]:
        return next(self.results)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the stage store has it."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""


def train_cell(cell: Cell, setup: Setup) -> Iterator[dict[str, Any]]:
    """Train the stages of a cell one after the other; the last result, and it alone, is `done`."""
    for stage in needed_stages(cell).values():
        outcome: dict[str, Any] = {"status": "finished", "reason": None}
        for result in train_stage(stage, setup.resources[cell.model], setup):
            if result["status"] == "running":
                yield result | {"stage": stage.identity, "done": False}
            else:
                outcome = result
        if outcome["status"] != "finished":
            yield outcome | {"stage": stage.identity, "done": True}
            return
    yield {"status": "finished", "reason": None, "done": True}


def train_stage(stage: Stage, resources: Resources, setup: Setup) -> Iterator[dict[str, Any]]:
    """Train one stage with the workers its model gets; gives its evaluations, and why it is not finished if so."""
    if resources.workers > 1:
        yield _train_ranks(stage, setup, resources)
    else:
        yield from _train_rank(stage, setup, resources, 0, "cuda" if resources.gpus else "cpu")


def _train_rank(stage: Stage, setup: Setup, resources: Resources, rank: int, device: str) -> Iterator[dict[str, Any]]:
    from lethe.training.loop import DivergedError, evaluations
    from lethe.worker import Worker

    worker = Worker(rank, resources.workers, device, resources.threads, resources.micro_batch)
    try:
        for step, values in evaluations(setup.job(stage), worker):
            yield {"status": "running", "step": step, "values": values}
    except DivergedError as error:
        yield {"status": "diverged", "reason": str(error)}
    except UserError as error:
        yield {"status": "failed", "reason": str(error)}
    else:
        yield {"status": "finished", "reason": None}


def _train_ranks(stage: Stage, setup: Setup, resources: Resources) -> dict[str, Any]:
    from ray import train
    from ray.train.torch import TorchTrainer, get_device

    def loop() -> dict[str, Any]:
        rank = train.get_context().get_world_rank()
        *_, outcome = _train_rank(stage, setup, resources, rank, str(get_device()))
        return outcome

    trainer = TorchTrainer(
        loop,  # type: ignore[arg-type]
        scaling_config=train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {}),
        ),
        run_config=train.RunConfig(
            name=stage.identity,
            storage_path=str(setup.scratch),
            failure_config=train.FailureConfig(max_failures=2),  # a lost worker; the store has the checkpoint
        ),
    )
    result: dict[str, Any] = trainer.fit().return_value  # type: ignore[attr-defined]
    return result
