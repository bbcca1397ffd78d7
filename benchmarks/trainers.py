"""What is timed: trainers that make one optimizer step at a call. Ours here, the rivals' in `rivals.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from benchmarks.tokens import CORPUS
from lethe.model.config import ModelConfig
from lethe.tokens.shards import TokenData
from lethe.training.job import Job
from lethe.training.loop import Training
from lethe.training.stage import Evaluation, Recipe, Stage
from lethe.training.store import StageStore
from lethe.worker import Worker

Precision = Literal["fp32", "bf16"]
OURS = "lethe"
# AdamW's settings and the clip, in all trainers; a constant rate, so that the number of rounds changes no step.
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0


@dataclass(frozen=True)
class Trainer:
    """`step(rows)` trains on int64 [batch, context + 1] and returns the loss before the update, a scalar."""

    owner: str
    precision: Precision
    compiled: bool
    model: nn.Module
    step: Callable[[Tensor], Tensor]

    @property
    def name(self) -> str:
        return f"{self.owner} {self.precision} {'compiled' if self.compiled else 'eager'}"

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


def stage(model: ModelConfig, batch: int, precision: Precision, compiled: bool) -> Stage:
    """A stage on the benchmark's corpus, longer than any benchmark."""
    recipe = Recipe(
        batch=batch,
        learning_rate=LEARNING_RATE,
        warmup=0,
        decay=0,
        weight_decay=WEIGHT_DECAY,
        betas=BETAS,
        clip=CLIP,
        precision=precision,
        compile=compiled,
    )
    return Stage(model=model, mixture={CORPUS: 1}, tokens=10_000 * batch * model.context, recipe=recipe, seed=0)


def ours(trained: Stage, data: TokenData, store: Path, threads: int) -> Trainer:
    """The project's own loop, which reads the rows of its steps itself."""
    job = Job(trained, data, StageStore(store), (CORPUS,), Evaluation(sequences=1, marks=1))
    training = Training(job, Worker(threads=threads))
    variant = trained.recipe
    return Trainer(OURS, variant.precision, variant.compile, training.model, lambda rows: training.train_step())
