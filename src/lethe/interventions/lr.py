"""The learning rate after the switch: scaled, and warmed up over another share of the stage (Gupta et al. 2023).

Scale 1 without a warm-up of its own is plain training bit for bit; scale 0 stays at the model of A. A baseline: less
rate, less forgetting, but also less learning, and at equal loss on B it is expected to lose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat

from lethe.config import Config, UserError
from lethe.interventions.interface import Intervention

if TYPE_CHECKING:
    from lethe.training.stage import Stage


class LearningRate(Intervention):
    """Needs nothing of A."""

    class Parameters(Config):
        scale: NonNegativeFloat = 1
        warmup: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="share; default: the recipe's")

    parameters: Parameters

    @classmethod
    def reads(cls, parameters: Config, stage: Stage) -> tuple[Stage, ...]:
        """Nothing; but here the recipe is known, and UserError tells of a warm-up that does not fit."""
        assert isinstance(parameters, cls.Parameters)
        if (parameters.warmup or 0) + (stage.recipe.decay or 0) > 1 + 1e-9:
            raise UserError(
                f"interventions: lr: warmup: found {parameters.warmup:g} with stage.decay {stage.recipe.decay:g}; "
                "allowed: together at most 1"
            )
        return ()

    def rate(self, step: int, planned: float) -> float:
        from lethe.training.optimizer import learning_rate

        stage, warmup = self.switch.stage, self.parameters.warmup
        if warmup is not None:
            recipe = stage.recipe.model_copy(update={"warmup": warmup})
            planned = learning_rate(recipe, step, stage.steps)
        return self.parameters.scale * planned
