"""A small laboratory: toy stages after one on food, trained once a session however many tests ask for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lethe.interventions import InterventionConfig
from lethe.interventions.interface import Switch
from lethe.model.config import ModelConfig
from lethe.tokens.shards import TokenData
from lethe.training.job import Job, fingerprints
from lethe.training.load import load_model
from lethe.training.loop import run_stage
from lethe.training.stage import Evaluation, Recipe, Stage
from lethe.training.store import StageStore
from lethe.worker import Worker

TOY = ModelConfig(layers=2, heads=2, d_model=32, d_ff=64, context=32)
STEPS = 40


class Lab:
    """Stages over toy tokens, and what became of them."""

    def __init__(self, root: Path, data: TokenData) -> None:
        self.store, self.data = StageStore(root / "stages"), data
        self.food = self.stage()

    def stage(self, kind: str = "none", changes: dict[str, Any] | None = None, **parameters: Any) -> Stage:
        """A first stage on food, unless `changes` say otherwise."""
        stage = {"model": TOY, "mixture": {"food": 1}, "tokens": STEPS * 256, "seed": 0}
        stage |= {"recipe": Recipe(batch=8, learning_rate=6e-3)}
        intervention = InterventionConfig(kind=kind, **parameters)
        return Stage(**stage | {"intervention": intervention} | (changes or {})).with_reads()

    def after_food(self, kind: str = "none", changes: dict[str, Any] | None = None, **parameters: Any) -> Stage:
        """A stage on automotive after `food`, under an intervention."""
        return self.stage(kind, {"mixture": {"automotive": 1}, "parent": self.food} | (changes or {}), **parameters)

    def job(self, stage: Stage) -> Job:
        evaluation = Evaluation(sequences=16, marks=4)
        return Job(stage, self.data, self.store, ("food", "automotive"), evaluation, checkpoint_every=8)

    def run(self, stage: Stage, worker: Worker = Worker(), report: Any = lambda step, values: None) -> Job:  # noqa: B008
        """Trains what the stage needs, and it; `worker` and `report` are for itself."""
        for other in (*((stage.parent,) if stage.parent else ()), *stage.reads):
            self.run(other)
        run_stage(self.job(stage), worker, report)
        return self.job(stage)

    def model(self, stage: Stage) -> nn.Module:
        return load_model(self.store, self.run(stage).key)

    def weights(self, stage: Stage) -> dict[str, torch.Tensor]:
        return self.model(stage).state_dict()

    def held_out(self, corpus: str = "food") -> torch.Tensor:
        """Ids of eight rows that nothing trains on: int64 [8, 32]."""
        return torch.from_numpy(self.data.split(corpus, "val").read(np.arange(8), 32))[:, :-1]

    @staticmethod
    def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        """Whether these are the same weights, bit for bit."""
        return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())

    @staticmethod
    @torch.no_grad()
    def logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(ids)
        return logits

    def loss(self, stage: Stage, corpus: str, where: int = -1) -> float:
        job = self.run(stage)
        curve = self.store.curve(job.key, job.measured)
        assert curve is not None
        return [row["value"] for row in curve.to_pylist() if row["name"] == f"loss/{corpus}"][where]

    def switch(self, stage: Stage, worker: Worker = Worker()) -> Switch:  # noqa: B008
        self.run(self.food)
        return Switch(stage, self.store, fingerprints(self.data), worker, self.data)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, toy_tokens: TokenData) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"), toy_tokens)


@pytest.fixture
def own_lab(tmp_path: Path, toy_tokens: TokenData) -> Lab:
    """One in which nothing is trained yet."""
    return Lab(tmp_path, toy_tokens)
