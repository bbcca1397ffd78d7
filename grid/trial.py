"""A trial walks the stages of one cell: in its own process with one worker, inside Ray Train with more."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

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


def run_cell(config: Mapping[str, str], cells: Mapping[str, Cell], setup: Setup) -> None:
    """The function that Ray Tune calls; `config` names the cell. What cannot be mended by a retry is reported."""
    from ray import tune

    cell = cells[config["cell"]]
    for stage in needed_stages(cell).values():

        def report(step: int, values: dict[str, float], stage: Stage = stage) -> None:
            tune.report({"status": "running", "stage": stage.identity, "step": step, "values": values})

        outcome = train_stage(stage, cell.model, setup, report)
        if outcome["status"] != "finished":
            tune.report({**outcome, "stage": stage.identity})
            return
    tune.report({"status": "finished", "reason": None})


def train_stage(
    stage: Stage, model: str, setup: Setup, report: Callable[[int, dict[str, float]], None]
) -> dict[str, Any]:
    """Train one stage with the workers its model gets; returns `status` and, where it is not finished, `reason`."""
    resources = setup.resources[model]
    if resources.workers == 1:
        return _train_rank(stage, setup, resources, 0, "cuda" if resources.gpus else "cpu", report)
    return _train_ranks(stage, setup, resources)


def _train_rank(
    stage: Stage, setup: Setup, resources: Resources, rank: int, device: str, report: Callable[..., None]
) -> dict[str, Any]:
    from lethe.training.loop import DivergedError, run_stage
    from lethe.worker import Worker

    worker = Worker(rank, resources.workers, device, resources.threads, resources.micro_batch)
    try:
        run_stage(setup.job(stage), worker, report)
    except DivergedError as error:
        return {"status": "diverged", "reason": str(error)}
    except UserError as error:
        return {"status": "failed", "reason": str(error)}
    return {"status": "finished", "reason": None}


def _train_ranks(stage: Stage, setup: Setup, resources: Resources) -> dict[str, Any]:
    from ray import train
    from ray.train.torch import TorchTrainer, get_device

    def loop() -> dict[str, Any]:
        rank = train.get_context().get_world_rank()
        return _train_rank(stage, setup, resources, rank, str(get_device()), lambda step, values: None)

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
