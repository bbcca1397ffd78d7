"""The interface of interventions: every hook has a neutral default, so that a file holds only what it changes.

The order in a stage: `reads` while the tree is planned; `at_switch` once, on the parent's model; `learning_rates`
once; then for each step `extra_rows`, `penalty`, `after_step`; `at_end` once; `tensors` whenever weights are saved.
What acts at inference is a property of the model that `at_switch` returns: its `forward(ids)` gives the logits that
training, evaluation and sampling use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lethe.config import Config

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor, nn

    from lethe.training.stage import Stage


@dataclass(frozen=True)
class Switch:
    """What an intervention may look at: its stage, and the finished models of the stages that this one reads."""

    stage: Stage
    load: Callable[[Stage], nn.Module]


class Intervention:
    """Base of all kinds. `Parameters` are the fields beside `kind` in YAML, with their defaults."""

    Parameters: ClassVar[type[Config]] = Config
    # Whether `at_switch` returns a model of another shape; such a stage is loaded through its parent's.
    reshapes: ClassVar[bool] = False
    # Whether the stage trains; one that does not is derived from finished stages in zero steps.
    trains: ClassVar[bool] = True

    def __init__(self, parameters: Config, switch: Switch) -> None:
        self.parameters = parameters
        self.switch = switch

    @classmethod
    def reads(cls, parameters: Config, stage: Stage) -> tuple[Stage, ...]:
        """The stages besides the parent that must be finished before this one starts (a teacher, a control)."""
        return ()

    def at_switch(self, model: nn.Module) -> nn.Module:
        """The model that the stage trains, from its parent's. Also called when a finished stage is loaded."""
        return model

    def learning_rates(self, model: nn.Module) -> dict[str, float]:
        """Factors on the learning rate, by parameter name; 0 freezes, a name left out has 1."""
        return {}

    def extra_rows(self, step: int) -> ndarray | None:
        """Rows that ride along in the step's forward pass: int64 [n, context + 1], on every rank its own."""
        return None

    def penalty(self, logits: Tensor, rows: Tensor, extra: int) -> Tensor | None:
        """What is added to the step's loss.

        `rows` is int64 [n + extra, context + 1], the extra rows last; `logits` float [n + extra, context, V] are
        the model's at rows[:, :-1]. The stage's own loss is taken over the first n rows.
        """
        return None

    def after_step(self, model: nn.Module, learning_rate: float) -> None:
        """Change the weights after an optimizer step taken at `learning_rate` (a decoupled pull, a projection)."""

    def at_end(self, model: nn.Module) -> None:
        """Change the weights once, after the last step (an average), or make them, where there are no steps."""

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """What the stage saves as its weights; a fractured model saves what it added to its trunk."""
        return dict(model.state_dict())
