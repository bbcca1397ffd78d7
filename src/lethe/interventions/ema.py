"""An exponential moving average of the weights over the stage, begun at the model of A and taken for them at the end.

average <- decay average + (1 - decay) theta after each step (Polyak & Juditsky 1992 average evenly; so, as Tarvainen &
Valpola 2017, eq. 2). It smooths the end of a stage and, if 1 / (1 - decay) comes near its steps, stays nearer to A.
Marks on the way are of theta, the last one of the average. Decay 0 is plain training bit for bit, decay 1 the model of
A. A baseline: it is expected to do little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lethe.config import Config
from lethe.interventions.interface import Cost, Intervention

if TYPE_CHECKING:
    from torch import Tensor, nn


class MovingAverage(Intervention):
    """Needs nothing of A; holds one more copy of the weights."""

    class Parameters(Config):
        decay: Annotated[float, Field(ge=0, le=1)] = 0.99

    parameters: Parameters

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        return Cost(weights=1)

    def at_switch(self, model: nn.Module) -> nn.Module:
        self.average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        return model

    def after_step(self, model: nn.Module, learning_rate: float) -> None:
        for name, parameter in model.named_parameters():
            self.average[name].lerp_(parameter.data, 1 - self.parameters.decay)

    def at_end(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.data.copy_(self.average[name])

    def state(self) -> dict[str, Tensor]:
        return self.average

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            self.average[name].copy_(tensor)
