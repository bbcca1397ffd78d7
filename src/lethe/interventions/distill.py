"""Distillation: stay near the outputs of the model of A, KL(p_A || p) per token (Li & Hoiem 2017; Hinton et al. 2015).

What the outputs are compared on decides:
`self_samples`  texts sampled from the model of A: no data of A but its unigram counts, from which each text's first
                id is drawn (from <eos>, only the beginnings of documents would be remembered). The best single-model
                method without data of A that we know of.
`buffer`        rows of A that were kept.
`batch`         the stage's own rows (learning without forgetting): no data of A, no further rows; weaker.

The loss is that of the stage plus `weight` times the KL, a mean over the tokens compared, exact over the vocabulary.
The rows of samples or buffer, `rows` of a batch at each step, come on top of the stage's own. Weight 0 adds no row and
is plain training bit for bit; a great weight ends near the outputs of the model of A.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from lethe.config import Config
from lethe.interventions.interface import Cost, Intervention, Switch

if TYPE_CHECKING:
    from torch import Tensor, nn


class Distill(Intervention):
    """Holds the model of A, which reads the compared rows too."""

    class Parameters(Config):
        on: Literal["self_samples", "buffer", "batch"] = "self_samples"
        weight: NonNegativeFloat = 1
        rows: PositiveFloat = 0.25
        sequences: PositiveInt = 512
        start: Literal["unigram", "eos"] = "unigram"

        @field_validator("rows", "sequences", "start")
        @classmethod
        def _acts(cls, value: Any, info: ValidationInfo) -> Any:
            idle = {"batch": ("rows", "sequences", "start"), "buffer": ("start",)}.get(info.data.get("on", ""), ())
            if info.field_name in idle and value != cls.model_fields[info.field_name].default:
                raise ValueError(f"nothing with on: {info.data['on']}, where it does not act")
            return value

    parameters: Parameters

    def __init__(self, parameters: Parameters, switch: Switch) -> None:
        from lethe.interventions.derived import Pool, buffer, self_samples

        super().__init__(parameters, switch)
        if parameters.weight and parameters.on == "self_samples":
            self.pool = Pool(self_samples(switch, parameters.sequences, parameters.start), parameters.rows, switch)
        elif parameters.weight and parameters.on == "buffer":
            self.pool = Pool(buffer(switch, parameters.sequences), parameters.rows, switch)

    @cached_property
    def teacher(self) -> nn.Module:
        """The model of A."""
        return self.switch.frozen(self.switch.parent)

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        assert isinstance(parameters, cls.Parameters)
        if not parameters.weight or parameters.on == "batch":
            return Cost(weights=1, flops=4 / 3 if parameters.weight else 1)  # a forward pass is a third of a step
        needs: Literal["samples", "buffer"] = "buffer" if parameters.on == "buffer" else "samples"
        return Cost(needs, weights=1, rows=parameters.rows, flops=1 + 4 / 3 * parameters.rows)

    def penalty(self, logits: Tensor, rows: Tensor, extra: int) -> Tensor | None:
        if not self.parameters.weight or (self.pool and not extra):
            return None
        compared = slice(len(rows) - extra, None) if self.pool else slice(None)
        total = kl(self.teacher_logits(rows[compared]), logits[compared])
        mean = self.pool.mean(total) if self.pool else total / rows[:, 1:].numel()
        return self.parameters.weight * mean

    def teacher_logits(self, rows: Tensor) -> Tensor:
        """Of the model of A, in the precision of the stage."""
        import torch

        with torch.no_grad(), self.switch.autocast():
            return self.teacher(rows[:, :-1])


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Sum over positions of KL(softmax(teacher) || softmax(student)), in float32; logits [..., V]."""
    from torch.nn import functional as F

    theirs, ours = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    return F.kl_div(ours, theirs, reduction="sum", log_target=True)
