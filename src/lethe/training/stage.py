"""A stage as a value: all that determines its weights, and the key made of it.

A stage trains on one mixture for a token budget, from a parent's weights or from scratch, under one intervention.
Nothing here imports torch, so plans of any size are cheap.
"""

from collections.abc import Mapping
from functools import cache, cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from lethe.config import Config
from lethe.files import canonical, digest, fingerprint
from lethe.interventions import PLAIN, InterventionConfig, find
from lethe.model.config import ModelConfig
from lethe.training.mixture import draws

# Raise it with every change that alters the weights of an unchanged stage; tests/training/test_semantics.py
# holds the literal losses that belong to it.
SEMANTICS = 1

Share = Annotated[float, Field(ge=0, le=1)]


class Recipe(Config):
    """How a stage trains, whatever it trains on."""

    batch: PositiveInt = Field(description="sequences a step, over all ranks")
    learning_rate: PositiveFloat
    schedule: Literal["wsd", "cosine"] = "wsd"
    warmup: Share = Field(0.05, description="share of the steps over which the rate rises")
    warmup_at_switch: Share | None = Field(None, description="re-warming of a stage with a parent; default: as warmup")
    decay: Share | None = Field(None, validate_default=True, description="share over which a wsd falls; default 0.3")
    floor: Share = Field(0.05, description="the last learning rate over the highest")
    weight_decay: NonNegativeFloat = 0.1
    betas: tuple[Share, Share] = (0.9, 0.95)
    optimizer_at_switch: Literal["reset", "carry"] = Field("reset", description="AdamW's moments after a parent")
    clip: PositiveFloat = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False

    @field_validator("decay")
    @classmethod
    def _fitting_decay(cls, decay: float | None, info: ValidationInfo) -> float | None:
        if info.data.get("schedule") == "cosine":
            if decay is not None:
                raise ValueError(f"found {decay:g} with schedule cosine; allowed: none, it falls from warm-up to end")
            return None
        decay = 0.3 if decay is None else decay
        for field in ("warmup", "warmup_at_switch"):
            if (warmup := info.data.get(field) or 0) + decay > 1 + 1e-9:
                raise ValueError(f"found {decay:g} with {field} {warmup:g}; allowed: together at most 1")
        return decay

    def at(self, switch: bool) -> "Recipe":
        """What acts in a stage with (or without) a parent, so that equal stages have equal recipes."""
        if switch and self.warmup_at_switch is not None:
            return self.model_copy(update={"warmup": self.warmup_at_switch, "warmup_at_switch": None})
        carry = self.optimizer_at_switch if switch else "reset"
        if (self.warmup_at_switch, self.optimizer_at_switch) == (None, carry):
            return self
        return self.model_copy(update={"warmup_at_switch": None, "optimizer_at_switch": carry})


class Evaluation(Config):
    """What is measured along a stage: the same held-out sequences of each corpus at every mark."""

    sequences: PositiveInt = 64
    marks: PositiveInt = Field(default=10, description="evenly spaced; more, in powers of two, just after the start")
    probes: NonNegativeInt = Field(0, description="facts asked of each corpus, type and form; 0: none")
    monitors: bool = Field(False, description="what tells of forgetting without text of A, in stages with a parent")

    def steps(self, steps: int) -> list[int]:
        """The steps after which the stage is evaluated: 0, dense (1, 2, 4, ...) at first, even later, the last."""
        even = {round(i * steps / self.marks) for i in range(self.marks + 1)}
        dense = {int(n) for n in 2 ** np.arange(63) if n < steps / self.marks}
        return sorted(even | dense)


class StageConfig(Recipe):
    """A stage's settings in YAML: its recipe, its budget, and what does not touch the weights."""

    tokens: PositiveInt = Field(description="budget of a stage on one corpus")
    evaluation: Evaluation = Evaluation()
    checkpoint_every: PositiveInt = Field(default=100, description="steps between checkpoints: what a kill can cost")

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})


class Stage(Config):
    """One node of the stage tree."""

    model: ModelConfig
    mixture: dict[str, NonNegativeFloat]
    tokens: NonNegativeInt
    seed: NonNegativeInt
    intervention: InterventionConfig = PLAIN
    parent: Self | None = None
    recipe: Recipe  # after the parent, see below
    reads: tuple[Self, ...] = ()

    @field_validator("mixture")
    @classmethod
    def _normalised(cls, mixture: dict[str, float]) -> dict[str, float]:
        total = sum(mixture.values())
        if total <= 0:
            raise ValueError(f"found weights that sum to {total:g}; allowed: at least one weight above 0")
        return {name: weight / total for name, weight in sorted(mixture.items()) if weight > 0}

    @field_validator("recipe")
    @classmethod
    def _acting_recipe(cls, recipe: Recipe, info: ValidationInfo) -> Recipe:
        return recipe.at(switch=info.data.get("parent") is not None)

    def altered(self, **changes: Any) -> Self:
        """This stage with other fields."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def with_reads(self) -> Self:
        """This stage with what its intervention reads; without steps, if the intervention trains none."""
        kind = find(self.intervention.kind)
        reads = kind.reads(self.intervention.typed, self)
        tokens = self.tokens if kind.trains else 0
        return self if (reads, tokens) == (self.reads, self.tokens) else self.altered(reads=reads, tokens=tokens)

    @property
    def tokens_per_step(self) -> int:
        return self.recipe.batch * self.model.context

    @cached_property
    def steps(self) -> int:
        """Optimizer steps: the budget in whole batches, to the nearest; a budget above 0 has at least one."""
        return max(round(self.tokens / self.tokens_per_step), 1 if self.tokens else 0)

    @property
    def trained_tokens(self) -> int:
        """The budget in whole steps."""
        return self.steps * self.tokens_per_step

    @property
    def carries(self) -> bool:
        """Whether it starts with the optimizer state in which its parent ended."""
        return self.recipe.optimizer_at_switch == "carry"

    @cached_property
    def sequence(self) -> tuple["Stage", ...]:
        """This stage and its ancestors, the root first."""
        return (*(self.parent.sequence if self.parent else ()), self)

    @property
    def trained(self) -> "Stage":
        """The stage whose steps made these weights: itself, or what a stage of no steps is derived from."""
        return self if self.steps or not self.reads else self.reads[0].trained

    @cached_property
    def drawn(self) -> dict[str, int]:
        """Windows of each corpus that the stage itself draws; for a stage of no steps, those it is derived from."""
        return draws(self.mixture, self.trained.steps * self.recipe.batch)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Windows of each corpus that the ancestors drew: a corpus is one stream, and a stage reads on in it."""
        total: dict[str, int] = {}
        for stage in self.sequence[:-1]:
            for corpus, windows in stage.drawn.items():
                total[corpus] = total.get(corpus, 0) + windows
        return total

    @cached_property
    def shape(self) -> str:
        """Equal where finished models are built alike; such stages cost the same for each token."""
        reads = tuple(stage.shape for stage in self.reads)
        return _shape(self.model, self.intervention, self.parent.shape if self.parent else None, reads)

    @cached_property
    def identity(self) -> str:
        """Hash of the specification alone: equal stages of a plan merge on it before any corpus exists."""
        parent, reads = self.parent.identity if self.parent else None, [stage.identity for stage in self.reads]
        return digest(f"{self.shape} {_text(self.recipe)} {self.mixture} {self.steps} {self.seed} {parent} {reads}")

    def key(self, fingerprints: Mapping[str, str]) -> str:
        """The stage key: `fingerprints` holds one entry for each corpus and one for the `tokenizer`.

        Only what the stage and its ancestors read enters, so another corpus in the grid changes no key.
        """
        parts = {name: _text(getattr(self, name)) for name in ("model", "recipe", "intervention")}
        record: dict[str, Any] = {name: name for name in parts} | {
            "semantics": SEMANTICS,
            "mixture": self.mixture,
            "steps": self.steps,
            "seed": self.seed,
            "parent": self.parent.key(fingerprints) if self.parent else None,
            "reads": [stage.key(fingerprints) for stage in self.reads],
            "data": {name: fingerprints[name] for name in ("tokenizer", *self.mixture)},
        }
        if (version := find(self.intervention.kind).version) > 1:
            record["intervention_version"] = version
        text = canonical(record)
        for name, part in parts.items():  # equal in thousands of stages, so made once
            text = text.replace(f'"{name}":"{name}"', f'"{name}":{part}', 1)
        return digest(text)


@cache
def _text(config: Config) -> str:
    return canonical(config.model_dump(mode="json"))


@cache
def _shape(model: ModelConfig, intervention: InterventionConfig, parent: str | None, reads: tuple[str, ...]) -> str:
    return fingerprint([_text(model), _text(intervention), parent, reads])
