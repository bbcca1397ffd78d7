"""Rebuild: what grew is distilled into one model of the old size, so that in the end nothing has grown.

The teacher is the finished stage with the intervention `of` (routing, or a fracture). The stage goes through its tokens
of B once more, and beside its loss stands `weight` times KL(teacher || model), meaned over the tokens of its own rows
and again over those of `rows` of a batch sampled from the model of A (as in `distill`). It begins at the path of a
routed teacher, which knows B, otherwise at the model of A. Weight 0 is a second pass of plain training over the same
tokens; a great weight ends near the outputs of the teacher.

It sheds growth after the fact, and is expected to lose to `distill` at equal FLOPs: its price is the teacher's stage,
this one, and a forward pass of each of the teacher's models on every row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from lethe.config import Config
from lethe.interventions import InterventionConfig
from lethe.interventions.interface import Cost, Intervention, Switch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lethe.training.stage import Stage


class Rebuild(Intervention):
    """Holds the teacher: two models, if it is routed."""

    class Parameters(Config):
        of: InterventionConfig = InterventionConfig(kind="route")
        weight: NonNegativeFloat = 1
        rows: PositiveFloat = 1
        sequences: PositiveInt = 512

        @field_validator("of")
        @classmethod
        def _grows(cls, of: InterventionConfig) -> InterventionConfig:
            if of.kind not in ("fracture", "route"):
                raise ValueError("fracture or route, which grow")
            return of

    parameters: Parameters

    def __init__(self, parameters: Parameters, switch: Switch) -> None:
        from lethe.interventions.derived import Pool, self_samples

        super().__init__(parameters, switch)
        if parameters.weight:
            self.teacher = switch.frozen(switch.stage.reads[0])
            self.pool = Pool(self_samples(switch, parameters.sequences, "unigram"), parameters.rows, switch)

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        """Of this stage; the teacher's stands at its own. A forward pass is a third of a step."""
        assert isinstance(parameters, cls.Parameters)
        of = parameters.of.cost()
        needs = of.needs if of.needs == "buffer" else "samples"
        if not parameters.weight:
            return Cost(of.needs)
        models = 2 if parameters.of.kind == "route" else 1
        return Cost(needs, weights=models, rows=parameters.rows, flops=(1 + parameters.rows) * (1 + models / 3))

    @classmethod
    def reads(cls, parameters: Config, stage: Stage) -> tuple[Stage, ...]:
        assert isinstance(parameters, cls.Parameters)
        return (stage.altered(intervention=parameters.of).with_reads(),)

    def at_switch(self, model: nn.Module) -> nn.Module:
        teacher = self.switch.stage.reads[0]
        if teacher.intervention.kind == "route":
            model.load_state_dict(self.switch.load(teacher.reads[0]).state_dict())
        return model

    def penalty(self, logits: Tensor, rows: Tensor, extra: int) -> Tensor | None:
        import torch

        from lethe.interventions.distill import kl

        if not self.pool:
            return None
        with torch.no_grad(), self.switch.autocast():
            taught = self.teacher(rows[:, :-1])
        own = len(rows) - extra
        mean = kl(taught[:own], logits[:own]) / rows[:own, 1:].numel()
        if extra:
            mean = mean + self.pool.mean(kl(taught[own:], logits[own:]))
        return self.parameters.weight * mean
