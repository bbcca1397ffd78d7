"""EWC: pull each weight back by how much the output of the model of A hangs on it (Kirkpatrick et al. 2017, eq. 3).

As `l2_sp`, a decoupled step after the optimizer's, of a strength of its own for each weight: with F the diagonal of
the Fisher information (`lethe.interventions.derived.diagonal_fisher`: of each sequence alone, labels sampled from the
model), theta <- theta - q / (1 + q) (theta - theta*), q = learning_rate * strength * F / mean(F).

In units of its mean a strength means the same whatever the number of tokens, and about the same for any estimator of
F. Weights with F = 0 (embeddings of words that A never saw) are free at any strength, unless `floor` lifts F to that
share of its mean. Strength 0 is plain training bit for bit; a great one, with a floor, stays at the weights of A.

A baseline: it is expected to lose, at equal loss on B, to all that acts on the outputs (distill, replay).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveInt

from lethe.config import Config
from lethe.interventions.interface import Cost, Intervention, Switch

if TYPE_CHECKING:
    from torch import nn


class PullByFisher(Intervention):
    """Needs statistics of A: F, from rows of its text; holds F and the weights of A."""

    class Parameters(Config):
        strength: NonNegativeFloat
        sequences: PositiveInt = 256
        floor: NonNegativeFloat = 0

    parameters: Parameters

    def __init__(self, parameters: Parameters, switch: Switch) -> None:
        from lethe.interventions.derived import fisher

        super().__init__(parameters, switch)
        self.anchor = dict(switch.frozen(switch.parent).named_parameters())
        found = fisher(switch, parameters.sequences)
        mean = sum(f.double().sum().item() for f in found.values()) / sum(f.numel() for f in found.values())
        self.importance = {n: (f / mean).clamp(min=parameters.floor).to(switch.worker.device) for n, f in found.items()}

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        return Cost(needs="statistics", weights=2)

    def after_step(self, model: nn.Module, learning_rate: float) -> None:
        strength = learning_rate * self.parameters.strength
        if strength == 0:
            return
        for name, parameter in model.named_parameters():
            pull = strength * self.importance[name]
            parameter.data.lerp_(self.anchor[name], pull / (1 + pull))
