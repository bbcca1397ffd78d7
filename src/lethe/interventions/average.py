"""Averaging after the fact: a point of the line between the models of A and of plain training on B (WiSE-FT).

theta = (1 - share) theta_B + share theta_A (Wortsman et al. 2022, eq. 1, their alpha = 1 - share). Share 0 is plain
training bit for bit, share 1 the model of A. No step is trained: any finished `none` gives all its averages.

A baseline: free, and expected to lose; between models that far apart lies a ridge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lethe.config import Config
from lethe.interventions import PLAIN
from lethe.interventions.interface import Cost, Intervention

if TYPE_CHECKING:
    from torch import nn

    from lethe.training.stage import Stage


class Average(Intervention):
    """Needs nothing of A but its model."""

    trains = False

    class Parameters(Config):
        share: Annotated[float, Field(ge=0, le=1, description="of the model of A")]

    parameters: Parameters

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        return Cost(flops=0)

    @classmethod
    def reads(cls, parameters: Config, stage: Stage) -> tuple[Stage, ...]:
        return (stage.altered(intervention=PLAIN),)

    def at_end(self, model: nn.Module) -> None:
        trained = self.switch.frozen(self.switch.stage.reads[0]).state_dict()
        for name, tensor in model.state_dict().items():
            tensor.lerp_(trained[name], 1 - self.parameters.share)
