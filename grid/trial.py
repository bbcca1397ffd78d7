"""A trial walks the stages of one cell: in its own process with one worker, inside Ray Train with more."""

import traceback
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ray import tune

from grid.cells import Cell
from grid.outbox import first_line
from grid.spec import Resources
from lethe.bucket import Bucket
from lethe.config import UserError
from lethe.tokens.shards import TokenData
from lethe.training.stage import Evaluation, Stage

SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_BETWEEN_SIGNS = 10.0


@dataclass(frozen=True)
class Setup:
    """What all trials of a grid share: where things lie, what is measured, what each model gets.

    `carried` are the identities of stages whose optimizer state a later stage carries on. `scratch` is where Ray keeps
    its own records of this run; nothing is ever restored from them. `frozen_after` is in seconds, see the grid. Where
    the storage lies in a `bucket`, the paths are those of a machine's copy.
    """

    runs: Path
    tokens: Path
    corpora: tuple[str, ...]
    evaluation: Evaluation
    checkpoint_every: int
    resources: Mapping[str, Resources]
    carried: frozenset[str]
    scratch: Path
    frozen_after: float
    bucket: Bucket | None

    def job(self, stage: Stage) -> Any:
        from lethe.training.job import Job
        from lethe.training.store import StageStore

        store = StageStore(self.runs / "stages", self.bucket)
        return Job(
            stage,
            _open(self.tokens, self.bucket),
            store,
            self.corpora,
            self.evaluation,
            self.checkpoint_every,
            keep_optimizer=stage.identity in self.carried,
        )


@cache
def _open(tokens: Path, bucket: Bucket | None) -> TokenData:
    if bucket:
        bucket.pull_once(tokens.parent.parent / "tokenizers")
        bucket.pull_once(tokens)
    return TokenData(tokens)


class CellTrial(tune.Trainable):
    """What Ray Tune runs: the configuration names the cell, and each evaluation is a result.

    Not a function, for Tune runs functions in a thread, and what glibc's allocator does for threads costs a step up to
    a third of its time. What cannot be mended by a retry is reported, not raised.
    """

    def setup(self, config: dict[str, Any], cells: Mapping[str, Cell], setup: Setup) -> None:  # type: ignore[override]
        self.cells, self.shared = cells, setup
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.results = train_cell(self.cells[new_config["cell"]], self.shared, new_config["finished"])
        return True

    def step(self) -> dict[str, Any]:
        try:
            return next(self.results)
        except OSError:  # a full disk, a file system that is away: as if the process were lost
            raise
        except Exception as error:  # noqa: BLE001 - raised, it would be tried again
            reason = f"{type(error).__name__}: {first_line(error)}"
            return {"status": "failed", "reason": reason, "story": traceback.format_exc(), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the stage store has it."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""


def train_cell(cell: Cell, setup: Setup, finished: Collection[str]) -> Iterator[dict[str, Any]]:
    """Train the stages of a cell one after the other; the last result, and it alone, is `done`.

    Those `finished`, by identity, are waited for: on a network's file system they may be seen late.
    `status` is `waiting` now and then while another program trains a stage, `running` at an evaluation, `trained` when
    it is finished, and in the last one how the cell ended.
    """
    for stage in cell.needed.values():
        if stage.identity in finished:
            setup.job(stage).await_finished()
        for result in train_stage(stage, setup.resources[cell.model], setup):
            ends = result["status"] not in ("waiting", "running", "trained")
            yield result | {"stage": stage.identity, "done": ends}
            if ends:
                return
    yield {"status": "finished", "reason": None, "done": True}


def train_stage(stage: Stage, resources: Resources, setup: Setup) -> Iterator[dict[str, Any]]:
    """Train one stage with the workers its model gets; gives its evaluations, then `trained`, or why it is not."""
    job = setup.job(stage)
    while not job.store.wait(job.key, SECONDS_BETWEEN_SIGNS):
        yield {"status": "waiting"}
    if resources.workers > 1:
        yield from _train_ranks(stage, setup, resources)
    else:
        yield from _train_rank(stage, setup, resources, 0, "cuda" if resources.gpus else "cpu")


def _train_rank(stage: Stage, setup: Setup, resources: Resources, rank: int, device: str) -> Iterator[dict[str, Any]]:
    from lethe.training.loop import DivergedError, evaluations
    from lethe.worker import Worker

    worker = Worker(rank, resources.workers, device, resources.threads, resources.micro_batch)
    job = setup.job(stage)
    try:
        for step, values in evaluations(job, worker):
            yield {"status": "running", "step": step, "values": values}
    except DivergedError as error:
        if worker.leads:
            job.store.give_up(job.key, str(error))
        yield {"status": "diverged", "reason": str(error)}
    except UserError as error:
        yield {"status": "failed", "reason": str(error)}
    else:
        yield {"status": "trained"}


def _train_ranks(stage: Stage, setup: Setup, resources: Resources) -> Iterator[dict[str, Any]]:
    """As `_train_rank` by several; what happens meanwhile is read from the checkpoints that they write."""
    from ray.train import WorkerGroupError

    from lethe.training.checkpoint import glance

    trainer, partial, seen = _trainer(stage, setup, resources), setup.job(stage).partial, -1
    with ThreadPoolExecutor(1) as pool:
        fit = pool.submit(trainer.fit)
        while not wait([fit], SECONDS_BETWEEN_LOOKS).done:
            step, values = glance(partial) or (seen, {})
            if step > seen:
                seen = step
                yield {"status": "running", "step": step, "values": values}
    try:
        yield fit.result().return_value
    except WorkerGroupError as error:
        if (reason := _own_fault(error.worker_failures)) is None:
            raise OSError(str(error)) from None  # as a lost process: the cell is tried again
        yield {"status": "failed", "reason": f"{reason}, after step {(glance(partial) or (0, {}))[0]}"}


def _own_fault(failures: Mapping[int, Exception]) -> str | None:
    """What a rank raised, not for want of another; None where ranks, or the connections between them, were lost."""
    from torch.distributed import DistError

    for rank, error in sorted(failures.items()):
        of_ray = type(error).__module__.startswith("ray.")  # Ray's errors of lost processes have no public class
        if not (of_ray or isinstance(error, OSError | DistError) or "gloo" in str(error)):
            return f"rank {rank} raised {type(error).__name__}: {first_line(error)}"
    return None


def _trainer(stage: Stage, setup: Setup, resources: Resources) -> Any:
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer, get_device

    def loop() -> dict[str, Any]:
        rank = train.get_context().get_world_rank()
        *_, outcome = _train_rank(stage, setup, resources, rank, str(get_device()))
        return outcome

    return TorchTrainer(
        loop,  # type: ignore[arg-type]
        torch_config=TorchConfig(timeout_s=round(min(setup.frozen_after, 1e6))),  # the others wait for a frozen rank
        scaling_config=train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {}),
        ),
        run_config=train.RunConfig(
            name=stage.identity,
            storage_path=setup.bucket.uri_of(setup.scratch) if setup.bucket else str(setup.scratch),
            failure_config=train.FailureConfig(max_failures=0),  # the queue tries a lost cell again
        ),
    )
