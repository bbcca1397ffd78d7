"""Fracture: the model of A stays whole, as a frozen trunk; B grows beside it, behind a gate that the text opens.

What grows at the switch (`growth`), at matrices of the blocks or in every feed-forward:
`lora`   W x becomes W x + g b(a x), of `rank`
`units`  gated units in number `width` of those there are
`clone`  W x becomes W x + g dW x, in the `parts` named: with g = 1 a copy of the model that trains
and g dE on the tied embedding, which is input and head: without words of its own B cannot be learned. dE has all rows
(`embedding`), or those the stage needs: the fewest that make 99 % of its tokens. At the cut all of it gives 0.

The gate g in [0, 1] of a token comes from it and those before it alone (`router`):
`naive_bayes`  s_t = gamma s_{t-1} + log u_B(x_t) / u_A(x_t), g_t = sigmoid(prior + sharpness s_t), of the unigram
               shares u of the tokens trained on before the switch and since, each count plus 1/2
`none`         g = 1, the control: it forgets as plain training does
The gate leaks: some of A looks like B. With `self_rows`, a share of the batch, the growth learns on texts sampled from
the model of A to leave its outputs as they are (as `distill` does), and then a soft gate does best.

When it is cut (`trigger`):
`none`   at the switch
`drift`  once the model, in plain training, has drifted too far: when KL(p_A || p) on sampled text (`watch`) passes
         `threshold` times the most it reaches in a control of as many tokens that goes on with the parent's mixture.
         Then the stage rolls back to the model of A, is cut, and begins anew with its full budget, for most of what is
         forgotten is forgotten early. If it never fires, the stage is plain training bit for bit.

No text of A is needed, but for the control. What is stored is what grew; the trunk lies under its own key. The stage's
learning rate is taken `rate` times: products of low rank are under-trained at 1. Rate 0 is the model of A bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from lethe.config import Config, UserError
from lethe.interventions import InterventionConfig
from lethe.interventions.distill import Distill
from lethe.interventions.freeze import is_in
from lethe.interventions.interface import Cost, Intervention, Switch
from lethe.interventions.watch import DRIFT, Watch
from lethe.model.cost import Growth, low_rank_kept, low_rank_weights, matrices, units_kept, units_weights

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor, nn

    from lethe.model.config import ModelConfig
    from lethe.model.fractured import Grow, Router
    from lethe.training.stage import Stage

Cloned = Literal["bottom", "top", "attention", "ffn", "all"]
NEEDED = 0.99
"""Of the stage's own tokens: what the rows of `embedding: needed` make together."""


class Fracture(Intervention):
    """Needs of A its model, and with a router its unigram counts."""

    reshapes = True

    class Parameters(Config):
        growth: Literal["lora", "units", "clone"] = "lora"
        rank: PositiveInt = 16
        width: PositiveFloat = 1
        parts: tuple[Cloned, ...] = ("all",)
        embedding: Literal["all", "needed", "none"] = "all"
        router: Literal["naive_bayes", "none"] = "naive_bayes"
        gamma: Annotated[float, Field(ge=0, le=1)] = 0.9
        sharpness: PositiveFloat = 0.5
        prior: float = 0
        rate: NonNegativeFloat = 2
        self_rows: NonNegativeFloat = 0
        trigger: Literal["none", "drift"] = "none"
        threshold: PositiveFloat = 1.2

        @field_validator("rank", "width", "parts", "gamma", "sharpness", "prior", "threshold")
        @classmethod
        def _acts(cls, value: Any, info: ValidationInfo) -> Any:
            by = {"rank": ("growth", "lora"), "width": ("growth", "units"), "parts": ("growth", "clone")}
            by["threshold"] = ("trigger", "drift")
            field, acting = by.get(str(info.field_name), ("router", "naive_bayes"))
            found = info.data.get(field, acting)
            if found != acting and value != cls.model_fields[str(info.field_name)].default:
                raise ValueError(f"nothing with {field}: {found}, where it does not act")
            return value

    parameters: Parameters

    def __init__(self, parameters: Parameters, switch: Switch) -> None:
        super().__init__(parameters, switch)
        self.cut: int | None = None if parameters.trigger == "drift" else 0
        """Before which step the model broke; None while it trains whole."""
        self.beside = self.watcher = None
        if switch.token_data is None:
            if parameters.trigger == "drift":
                self.cut = switch.record(switch.stage)["intervention"]["cut"]
            return
        if parameters.self_rows:
            self.beside = Distill(Distill.Parameters(rows=parameters.self_rows), switch)
        if parameters.trigger == "drift":
            self.watcher = Watch(Watch.Parameters(), switch)
            highest = switch.record(switch.stage.reads[0])["intervention"]["highest"]
            self.threshold = parameters.threshold * highest

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        """With a trigger, not in it: the steps that are spent until it fires, and the control."""
        assert isinstance(parameters, cls.Parameters)
        watched = Watch.cost(Watch.Parameters()) if parameters.trigger == "drift" else Cost()
        if parameters.self_rows:
            beside = Distill.cost(Distill.Parameters(rows=parameters.self_rows))
            return replace(beside, weights=watched.weights)  # the trunk is the teacher
        if parameters.router == "naive_bayes" and watched.needs == "nothing":
            return Cost("statistics")
        return watched

    @classmethod
    def growth(cls, parameters: Config, model: ModelConfig, vocab_size: int) -> Growth:
        assert isinstance(parameters, cls.Parameters)
        if parameters.growth == "lora":
            weights, kept = low_rank_weights(model, parameters.rank), low_rank_kept(model, parameters.rank)
        elif parameters.growth == "units":
            count = units(parameters.width, model)
            weights, kept = units_weights(model, count), units_kept(model, count)
        else:
            shapes = [shape for name, shape in matrices(model).items() if is_cloned(name, parameters.parts, model)]
            weights, kept = sum(rows * columns for rows, columns in shapes), 0
        if parameters.embedding != "none":
            weights, kept = weights + vocab_size * model.d_model, kept + model.d_model
        if parameters.embedding == "needed":
            kept += vocab_size  # what its rows add to the logits
        return Growth(weights, frozen=True, kept=kept)

    @classmethod
    def reads(cls, parameters: Config, stage: Stage) -> tuple[Stage, ...]:
        assert isinstance(parameters, cls.Parameters)
        if parameters.trigger == "none":
            return ()
        if stage.parent is None:
            raise UserError("intervention: found 'fracture' with trigger drift; allowed without a parent: none")
        return (stage.altered(mixture=stage.parent.mixture, intervention=InterventionConfig(kind="watch"), reads=()),)

    def at_switch(self, model: nn.Module) -> nn.Module:
        import torch

        if self.cut is None:
            return model
        from lethe.model.fractured import EmbeddingDelta, Fractured, transformer_in

        chosen, own, embedding = self.parameters, self.own_counts(), None
        if chosen.embedding != "none":
            rows = torch.from_numpy(needed(own)) if chosen.embedding == "needed" else None
            embedding = EmbeddingDelta(transformer_in(model).embedding.weight, rows)
        router = self.router(own) if chosen.router == "naive_bayes" else None
        if self.beside:
            self.beside.teacher = model  # the trunk is what it would load
        fractured = Fractured(model, embedding, router, grow(chosen, self.switch.stage.model), self.switch.stage.seed)
        return fractured.to(self.switch.worker.device)

    def router(self, own: ndarray) -> Router:
        from lethe.interventions.derived import log_unigram_ratio
        from lethe.model.fractured import Router

        chosen, ratio = self.parameters, log_unigram_ratio(self.switch, own).float()
        return Router(ratio, chosen.gamma, chosen.sharpness, chosen.prior)

    def own_counts(self) -> ndarray:
        """How often each id is a target in this stage, which is about to start, or is finished: int64 [V]."""
        from lethe.interventions.derived import counts_of
        from lethe.training.sampler import MixtureSampler

        if self.switch.token_data is None:
            return counts_of(self.switch, self.switch.stage)
        return MixtureSampler(self.switch.stage, self.switch.data).unigram_counts()

    def learning_rates(self, model: nn.Module) -> dict[str, float]:
        if self.cut is None:
            return {}
        return {name: 0.0 if is_trunk(name) else self.parameters.rate for name, _ in model.named_parameters()}

    def extra_rows(self, step: int) -> ndarray | None:
        return self.beside.extra_rows(step) if self.beside and self.cut is not None else None

    def penalty(self, logits: Tensor, rows: Tensor, extra: int) -> Tensor | None:
        return self.beside.penalty(logits, rows, extra) if extra and self.beside else None

    def watch(self, model: nn.Module, step: int) -> dict[str, float]:
        if self.watcher is None or self.cut is not None or not (read := self.watcher.watch(model, step)):
            return {}
        return read | {f"{DRIFT}_threshold": self.threshold}

    def rolls_back(self, read: dict[str, float]) -> bool:
        if read[DRIFT] <= self.threshold:
            return False
        assert self.watcher is not None
        self.cut = max(self.watcher.readings)
        return True

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        whole = self.cut is None
        return {name: tensor for name, tensor in model.state_dict().items() if whole or not is_trunk(name)}

    def state(self) -> dict[str, Tensor]:
        return self.watcher.state() if self.watcher else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        if self.watcher:
            self.watcher.restore(state)
            if self.watcher.readings and self.watcher.record()["highest"] > self.threshold:
                self.cut = max(self.watcher.readings)

    def record(self) -> dict[str, Any]:
        if self.watcher is None:
            return {}
        return self.watcher.record() | {"threshold": self.threshold, "cut": self.cut}


def is_trunk(name: str) -> bool:
    """Whether a tensor of a fractured model is its trunk's."""
    return name.startswith("trunk.")


def grow(chosen: Fracture.Parameters, model: ModelConfig) -> Grow:
    """What grows beside which modules."""
    from lethe.model.fractured import clones_beside, low_rank_beside, units_beside

    if chosen.growth == "lora":
        return low_rank_beside(chosen.rank)
    if chosen.growth == "units":
        return units_beside(units(chosen.width, model))
    return clones_beside(lambda name: is_cloned(name, chosen.parts, model))


def units(width: float, model: ModelConfig) -> int:
    """How many are added to a feed-forward."""
    return max(1, round(width * model.d_ff))


def is_cloned(name: str, parts: tuple[Cloned, ...], model: ModelConfig) -> bool:
    """Whether a matrix, such as `blocks.1.ffn.down`, is in one of the parts."""
    return any(is_in(name, part, model.layers / 2) for part in parts)


def needed(counts: ndarray) -> ndarray:
    """The fewest ids that make NEEDED of the tokens of `counts` (int64 [V]), ascending: int64 [N]."""
    import numpy as np

    often = np.argsort(-counts, kind="stable")
    reached = np.cumsum(counts[often]) >= NEEDED * counts.sum()
    return np.sort(often[: int(reached.argmax()) + 1])
