"""A cell as measured: the curves of its stages, and what it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class StageCurve:
    """One stage as measured: `points[name]` is float64 [marks, 2], tokens since its start against the value.

    `flops_per_token` is of its training, with what has grown and what its intervention computes. `peak_flops` is the
    peak FLOP/s of all devices that trained it together, None for unknown ones.
    """

    mixture: dict[str, float]
    tokens: int
    seconds: float
    points: dict[str, np.ndarray]
    flops_per_token: float = 0
    peak_flops: float | None = None

    def start(self, name: str) -> float:
        return float(self.points[name][0, 1])

    def end(self, name: str) -> float:
        return float(self.points[name][-1, 1])


@dataclass(frozen=True)
class History:
    """The stages of a cell in order, and what some metrics need besides.

    `roots` are the first stages of all cells of the same model and seed. `branches` are side branches by corpus: the
    stage that, after the last one, trains on that earlier corpus again. `unit` says which curves are read: `loss` in
    nats per token, `bpb` in bits per byte.
    """

    stages: Sequence[StageCurve]
    roots: Sequence[StageCurve] = ()
    branches: Mapping[str, StageCurve] = field(default_factory=dict)
    unit: Literal["loss", "bpb"] = "loss"

    def learned_in(self, corpus: str) -> int | None:
        """Index of the stage in which the corpus was learned: the first in which it has the largest weight."""
        for i, stage in enumerate(self.stages):
            if stage.mixture.get(corpus, 0) == max(stage.mixture.values()):
                return i
        return None

    def losses(self, corpus: str) -> np.ndarray:
        """The corpus's column of the matrix of losses: before the first stage, then after each, float64 [stages + 1]"""
        name = f"{self.unit}/{corpus}"
        return np.array([self.stages[0].start(name), *(stage.end(name) for stage in self.stages)])

    def own(self, corpus: str) -> np.ndarray:
        """The loss on a learned corpus over its own stage: float64 [marks, 2], tokens since its start and loss."""
        learned = self.learned_in(corpus)
        assert learned is not None
        return self.stages[learned].points[f"{self.unit}/{corpus}"]

    def after(self, corpus: str) -> np.ndarray:
        """The loss on a corpus since its own stage ended: float64 [marks, 2], tokens and loss; empty if none is later.

        Where two stages meet, both their marks are there.
        """
        learned = self.learned_in(corpus)
        parts, before = [np.empty((0, 2))], 0
        for stage in () if learned is None else self.stages[learned + 1 :]:
            parts.append(stage.points[f"{self.unit}/{corpus}"] + [before, 0])
            before += stage.tokens
        return np.concatenate(parts)

    @property
    def trained_on(self) -> set[str]:
        return {corpus for stage in self.stages for corpus in stage.mixture}
