"""Partition: a share of the hidden units of A stays as it is, new units grow beside them, and all else trains as usual.

Of every feed-forward of the parent's model the `share` of units is frozen: their rows of gate_up and columns of down
keep their bits, for they are put back after each step, weight decay and all. Which ones (`by`):
`fisher`  those with the most Fisher mass, the sum over a unit's weights of the diagonal (`fisher` of `derived.py`)
`random`  drawn from the stage's seed
Beside them `width` times as many units as there are grow in every feed-forward, always on: gate_up drawn as the model's
own, down 0, so at the switch the logits are the parent's. A grown model's weights have new names: AdamW begins anew
even where the recipe carries its moments. As with `ewc`, a step is clipped by all gradients, those of A's units too.

Share 0 is plain growth, and with width 0 plain training bit for bit; share 1 with width 0 is `freeze` of the
feed-forwards, where no step is clipped. It is the null hypothesis beside `fracture`, expected not to help: with half
frozen by Fisher mass it forgets about as much as plain training, and no less than with a random half
(docs/results/fracture.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationInfo, field_validator

from lethe.config import Config, UserError
from lethe.interventions.fracture import units
from lethe.interventions.interface import Cost, Intervention, Switch
from lethe.model.cost import NO_GROWTH, Growth, units_kept, units_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from lethe.model.config import ModelConfig


class Partition(Intervention):
    """Needs statistics of A by `fisher`: F, from rows of its text; holds the weights of the frozen units."""

    reshapes = True  # not at width 0, where the parent's model has the shape too

    class Parameters(Config):
        share: Annotated[float, Field(ge=0, le=1)] = 0.5
        by: Literal["fisher", "random"] = "fisher"
        sequences: PositiveInt = 256
        width: NonNegativeFloat = 0.25

        @field_validator("by", "sequences")
        @classmethod
        def _acts(cls, value: Any, info: ValidationInfo) -> Any:
            if value != cls.model_fields[str(info.field_name)].default:
                if info.data.get("share") == 0:
                    raise ValueError("nothing with share: 0, where it does not act")
                if info.data.get("by") == "random":
                    raise ValueError("nothing with by: random, where it does not act")
            return value

    parameters: Parameters

    def __init__(self, parameters: Parameters, switch: Switch) -> None:
        super().__init__(parameters, switch)
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}
        if switch.token_data is None:
            return  # a finished model is loaded, which holds them
        before = dict(switch.frozen(switch.parent).named_parameters())
        grown = "trunk." if parameters.width else ""
        for name, frozen in self.frozen_units(before).items():
            self.kept[grown + name] = frozen, by_unit(name, before[name]).index_select(1, frozen)

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        """Of the weights it holds at most `share`: only the feed-forwards' are frozen."""
        assert isinstance(parameters, cls.Parameters)
        reads_text = parameters.share and parameters.by == "fisher"
        return Cost("statistics" if reads_text else "nothing", weights=parameters.share)

    @classmethod
    def growth(cls, parameters: Config, model: ModelConfig, vocab_size: int) -> Growth:
        assert isinstance(parameters, cls.Parameters)
        if not parameters.width:
            return NO_GROWTH
        count = units(parameters.width, model)
        return Growth(units_weights(model, count), kept=units_kept(model, count))

    def frozen_units(self, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of each feed-forward's two matrices in the parent's parameters, by name: int64 [K], the same for both.

        What an earlier stage grew beside a feed-forward counts as one of its own.
        """
        from lethe.interventions.derived import fisher

        if not self.parameters.share:
            return {}
        found = fisher(self.switch, self.parameters.sequences) if self.parameters.by == "fisher" else {}
        frozen: dict[str, Tensor] = {}
        for gate_up in (name for name in before if "gate_up" in name.split(".")):
            pair = gate_up, gate_up.replace("gate_up", "down")
            order = self.order(pair, before[pair[1]].shape[1], found)
            kept = order[: round(self.parameters.share * len(order))].to(self.switch.worker.device)
            frozen |= dict.fromkeys(pair, kept)
        return frozen

    def order(self, pair: tuple[str, str], count: int, found: dict[str, Tensor]) -> Tensor:
        """The `count` units of a feed-forward, those to be frozen first: int64 [F]."""
        import torch

        from lethe.model.build import seeded

        if self.parameters.by == "random":
            return torch.randperm(count, generator=seeded(f"{self.switch.stage.seed}/partition/{pair[0]}"))
        mass = torch.zeros(count, dtype=torch.float64)
        for name in pair:
            mass += by_unit(name, found[name].double()).transpose(0, 1).flatten(1).sum(1)
        return mass.argsort(descending=True, stable=True)

    def at_switch(self, model: nn.Module) -> nn.Module:
        from lethe.model.fractured import Fractured, units_beside

        chosen, stage = self.parameters, self.switch.stage
        if not chosen.width:
            return model
        if stage.model.implementation != "torch":
            raise UserError(f"intervention {stage.intervention.kind}: model.implementation: allowed: torch, or width 0")
        grown = Fractured(model, None, None, units_beside(units(chosen.width, stage.model)), stage.seed)
        return grown.to(self.switch.worker.device)

    def after_step(self, model: nn.Module, learning_rate: float) -> None:
        named = dict(model.named_parameters())
        for name, (frozen, weights) in self.kept.items():
            by_unit(name, named[name].data).index_copy_(1, frozen, weights)


def by_unit(name: str, weight: Tensor) -> Tensor:
    """A view of a feed-forward's matrix in which dimension 1 counts the units: gate_up [2, F, D], down [D, F]."""
    return weight.unflatten(0, (2, -1)) if "gate_up" in name else weight
