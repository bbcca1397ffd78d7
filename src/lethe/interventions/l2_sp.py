"""L2-SP: pull the weights back to where they stood at the switch (Li, Grandvalet & Davoine 2018, eq. 3).

The pull is a decoupled step after the optimizer's, as weight decay is in AdamW: with theta* the parent's weights and
q = learning_rate * strength, theta <- theta - q / (1 + q) (theta - theta*). That is the exact minimiser of the
proximal problem (strength / 2) ||theta - theta*||^2 + ||theta - theta_t||^2 / (2 learning_rate), hence stable at any
strength: 0 changes no bit, and a strength that makes q / (1 + q) round to 1 stays at the weights of A.

A baseline: it is expected to lose, at equal loss on B, to all that acts on the outputs (distill, replay).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat

from lethe.config import Config
from lethe.interventions.interface import Cost, Intervention, Switch

if TYPE_CHECKING:
    from torch import nn


class PullToParent(Intervention):
    """Needs no data of A; holds one more copy of the weights."""

    class Parameters(Config):
        strength: NonNegativeFloat

    parameters: Parameters

    def __init__(self, parameters: Parameters, switch: Switch) -> None:
        super().__init__(parameters, switch)
        self.anchor = dict(switch.frozen(switch.parent).named_parameters())

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        return Cost(weights=1)

    def after_step(self, model: nn.Module, learning_rate: float) -> None:
        pull = learning_rate * self.parameters.strength
        if pull == 0:
            return  # adding 0 would still turn -0.0 into 0.0
        for name, parameter in model.named_parameters():
            parameter.data.lerp_(self.anchor[name], pull / (1 + pull))
