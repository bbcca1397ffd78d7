"""LoRA: every matrix of the blocks W becomes W + (alpha / rank) b a, of which only b and a train (Hu et al. 2022).

The rest, embedding and norms included, stays as in the model of A. At the end the products are added to the matrices:
the finished stage has the shape it had. Rank 0 is the model of A; no rank is plain training.

A baseline: it is expected to lose. The tied embedding is frozen, and without that B cannot be learned (see `freeze`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeInt, PositiveFloat

from lethe.config import Config
from lethe.interventions.interface import Intervention

if TYPE_CHECKING:
    from torch import nn


class Lora(Intervention):
    """Needs nothing of A."""

    class Parameters(Config):
        rank: NonNegativeInt = 16
        alpha: PositiveFloat = 16

    parameters: Parameters

    def at_switch(self, model: nn.Module) -> nn.Module:
        from lethe.model.low_rank import add_low_rank

        if self.parameters.rank:
            factor = self.parameters.alpha / self.parameters.rank
            add_low_rank(model, self.parameters.rank, factor, self.switch.stage.seed)
        return model

    def learning_rates(self, model: nn.Module) -> dict[str, float]:
        return {name: 0.0 for name, _ in model.named_parameters() if not name.endswith((".low_a", ".low_b"))}

    def at_end(self, model: nn.Module) -> None:
        from lethe.model.low_rank import merge_low_rank

        merge_low_rank(model)
