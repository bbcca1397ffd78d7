"""A stage as a value: all that determines its weights, and the key made of it.

A stage trains on one mixture for a token budget, from a parent's weights or from scratch, under one intervention.
Nothing here imports torch, so plans of any size are cheap.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from lethe.config import Config
from lethe.files import fingerprint
from lethe.interventions import InterventionConfig
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
    schedule: Literal["wsd"] = "wsd"
    warmup: Share = 0.05
    decay: Share = 0.3
    floor: Share = Field(0.05, description="the last learning rate over the highest")
    weight_decay: NonNegativeFloat = 0.1
    betas: tuple[Share, Share] = (0.9, 0.95)
    clip: PositiveFloat = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"


class Evaluation(Config):
    """What is measured along a stage: the same held-out sequences of each corpus at every mark."""

    sequences: PositiveInt = 64
    marks: PositiveInt = Field(default=10, description="evenly spaced; more, in powers of two, just after the start")

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

    @property
    def recipe(self) -> Recipe:
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})


class Stage(Config):
    """One node of the stage tree."""

    model: ModelConfig
    mixture: dict[str, NonNegativeFloat]
    tokens: NonNegativeInt
    recipe: Recipe
    seed: NonNegativeInt
    intervention: InterventionConfig = InterventionConfig(kind="none")
    parent: Self | None = None
    reads: tuple[Self, ...] = ()

    @field_validator("mixture")
    @classmethod
    def _normalised(cls, mixture: dict[str, float]) -> dict[str, float]:
        total = sum(mixture.values())
        if total <= 0:
            raise ValueError(f"found weights that sum to {total:g}; allowed: at least one weight above 0")
        return {name: mixture[name] / total for name in sorted(mixture) if mixture[name] > 0}

    @property
    def tokens_per_step(self) -> int:
        return self.recipe.batch * self.model.context

    @cached_property
    def steps(self) -> int:
        """Optimizer steps: the budget in whole batches, to the nearest; a budget above 0 has at least one."""
        return max(round(self.tokens / self.tokens_per_step), 1 if self.tokens else 0)

    @cached_property
    def sequence(self) -> tuple["Stage", ...]:
        """This stage and its ancestors, the root first."""
        return (*(self.parent.sequence if self.parent else ()), self)

    @cached_property
    def drawn(self) -> dict[str, int]:
        """Windows of each corpus that the stage itself draws."""
        return draws(self.mixture, self.steps * self.recipe.batch)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Windows of each corpus that the ancestors drew: a corpus is one stream, and a stage reads on in it."""
        total: dict[str, int] = {}
        for stage in self.sequence[:-1]:
            for corpus, windows in stage.drawn.items():
                total[corpus] = total.get(corpus, 0) + windows
        return total

    @cached_property
    def identity(self) -> str:
        """Hash of the specification alone: equal stages of a plan merge on it before any corpus exists."""
        return self._hash({})

    def key(self, fingerprints: Mapping[str, str]) -> str:
        """The stage key: `fingerprints` holds one entry for each corpus and one for the `tokenizer`.

        Only what the stage and its ancestors read enters, so another corpus in the grid changes no key.
        """
        return self._hash(fingerprints)

    def _hash(self, fingerprints: Mapping[str, str]) -> str:
        names = ["tokenizer", *self.mixture] if fingerprints else []
        record: dict[str, Any] = {
            "semantics": SEMANTICS,
            "model": self.model.model_dump(mode="json"),
            "mixture": self.mixture,
            "steps": self.steps,
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.seed,
            "intervention": self.intervention.model_dump(mode="json"),
            "parent": self.parent._hash(fingerprints) if self.parent else None,
            "reads": [stage._hash(fingerprints) for stage in self.reads],
            "data": {name: fingerprints[name] for name in names},
        }
        return fingerprint(record)
