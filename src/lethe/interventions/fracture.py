"""Fracture: the model of A stays whole, as a frozen trunk; B grows beside it, behind a gate that the text opens.

What grows at the switch (`growth`), at every matrix of the blocks or in every feed-forward:
`lora`   W x becomes W x + g b(a x), of `rank`
`units`  gated units in number `width` of those there are
and g dE on the tied embedding, which is input and head: without words of its own B cannot be learned. dE has all rows
(`embedding`), or those the stage needs: the fewest that make 99 % of its tokens. At the cut all of it gives 0.

The gate g in [0, 1] of a token comes from it and those before it alone (`router`):
`naive_bayes`  s_t = gamma s_{t-1} + log u_B(x_t) / u_A(x_t), g_t = sigmoid(sharpness s_t), of the unigram shares u of
               the tokens trained on before the switch and since, each count plus 1/2
`none`         g = 1, the control: it forgets as plain training does

No text of A is needed. What is stored is what grew; the trunk lies under its own key. The stage's learning rate is
taken `rate` times: at 1 the growth is under-trained. Rate 0 is the model of A bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from lethe.config import Config
from lethe.interventions.interface import Cost, Intervention
from lethe.model.cost import Growth, low_rank_weights

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor, nn

    from lethe.model.config import ModelConfig
    from lethe.model.fractured import Router

NEEDED = 0.99
"""Of the stage's own tokens: what the rows of `embedding: needed` make together."""


class Fracture(Intervention):
    """Needs of A its model, and with a router its unigram counts."""

    reshapes = True

    class Parameters(Config):
        growth: Literal["lora", "units"] = "lora"
        rank: PositiveInt = 16
        width: PositiveFloat = 1
        embedding: Literal["all", "needed", "none"] = "all"
        router: Literal["naive_bayes", "none"] = "naive_bayes"
        gamma: Annotated[float, Field(ge=0, le=1)] = 0.9
        sharpness: PositiveFloat = 0.5
        rate: NonNegativeFloat = 2

        @field_validator("rank", "width", "gamma", "sharpness")
        @classmethod
        def _acts(cls, value: Any, info: ValidationInfo) -> Any:
            by = {"rank": ("growth", "lora"), "width": ("growth", "units")}
            field, acting = by.get(str(info.field_name), ("router", "naive_bayes"))
            found = info.data.get(field, acting)
            if found != acting and value != cls.model_fields[str(info.field_name)].default:
                raise ValueError(f"nothing with {field}: {found}, where it does not act")
            return value

    parameters: Parameters

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        assert isinstance(parameters, cls.Parameters)
        return Cost("nothing" if parameters.router == "none" else "statistics")

    @classmethod
    def growth(cls, parameters: Config, model: ModelConfig, vocab_size: int) -> Growth:
        assert isinstance(parameters, cls.Parameters)
        embedding = 0 if parameters.embedding == "none" else vocab_size * model.d_model
        if parameters.growth == "lora":
            return Growth(embedding + low_rank_weights(model, parameters.rank), frozen=True)
        return Growth(embedding + model.layers * 3 * model.d_model * units(parameters.width, model), frozen=True)

    def at_switch(self, model: nn.Module) -> nn.Module:
        import torch

        from lethe.model.fractured import EmbeddingDelta, Fractured, transformer_in

        chosen, own, embedding = self.parameters, self.own_counts(), None
        if chosen.embedding != "none":
            rows = torch.from_numpy(needed(own)) if chosen.embedding == "needed" else None
            embedding = EmbeddingDelta(transformer_in(model).embedding.weight, rows)
        lora = chosen.growth == "lora"
        grows = {"rank": chosen.rank} if lora else {"units": units(chosen.width, self.switch.stage.model)}
        router = self.router(own) if chosen.router == "naive_bayes" else None
        fractured = Fractured(model, embedding, router, **grows, seed=self.switch.stage.seed)
        return fractured.to(self.switch.worker.device)

    def router(self, own: ndarray) -> Router:
        from lethe.model.fractured import Router
        from lethe.training.derived import log_unigram_ratio, seen_counts

        ratio = log_unigram_ratio(seen_counts(self.switch), own).float()
        return Router(ratio, self.parameters.gamma, self.parameters.sharpness)

    def own_counts(self) -> ndarray:
        """How often each id is a target in this stage, which is about to start, or is finished: int64 [V]."""
        import numpy as np

        from lethe.training.sampler import MixtureSampler

        if self.switch.token_data is None:
            return np.array(self.switch.record(self.switch.stage)["unigram_counts"], dtype=np.int64)
        return MixtureSampler(self.switch.stage, self.switch.data).unigram_counts()

    def learning_rates(self, model: nn.Module) -> dict[str, float]:
        return {name: 0.0 if is_trunk(name) else self.parameters.rate for name, _ in model.named_parameters()}

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in model.state_dict().items() if not is_trunk(name)}


def is_trunk(name: str) -> bool:
    """Whether a tensor of a fractured model is its trunk's."""
    return name.startswith("trunk.")


def units(width: float, model: ModelConfig) -> int:
    """How many are added to a feed-forward."""
    return max(1, round(width * model.d_ff))


def needed(counts: ndarray) -> ndarray:
    """The fewest ids that make NEEDED of the tokens of `counts` (int64 [V]), ascending: int64 [N]."""
    import numpy as np

    often = np.argsort(-counts, kind="stable")
    reached = np.cumsum(counts[often]) >= NEEDED * counts.sum()
    return np.sort(often[: int(reached.argmax()) + 1])
