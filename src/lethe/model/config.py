"""The size of a model: its configuration. Imports no torch, so planning is instant."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, ValidationInfo, field_validator

from lethe.config import Config, named, read_yaml, validate

Count = Annotated[int, Field(gt=0, strict=True)]


class ModelConfig(Config):
    """A decoder-only transformer of Llama's block: RMSNorm, rotary positions, SwiGLU, no biases, a tied head.

    Without `d_ff` it is 8/3 d_model, rounded up to a multiple of 64: SwiGLU's three matrices then hold 8 d_model^2
    weights, as many as the two of an MLP with 4 d_model (Shazeer 2020).
    """

    layers: Count
    heads: Count
    d_model: Count
    d_ff: Count = Field(default=None, validate_default=True)
    context: Count
    rope_theta: PositiveFloat = 10000.0
    norm_eps: PositiveFloat = 1e-5
    implementation: Literal["torch", "fundamentals"] = "torch"

    @field_validator("d_model")
    @classmethod
    def _even_heads(cls, d_model: int, info: ValidationInfo) -> int:
        heads = info.data.get("heads", 1)
        if d_model % (2 * heads):
            raise ValueError(
                f"found {d_model} for {heads} heads; allowed: a multiple of {2 * heads} "
                "(equal heads, each of an even size, because rotary positions turn features in pairs)"
            )
        return d_model

    @field_validator("d_ff", mode="before")
    @classmethod
    def _derived_d_ff(cls, d_ff: Any, info: ValidationInfo) -> Any:
        # 8/3 d_model / 64 is d_model / 24
        return math.ceil(info.data.get("d_model", 1) / 24) * 64 if d_ff is None else d_ff


def load_model_config(name: str) -> ModelConfig:
    """The model `configs/models/NAME.yaml`.

    Raises ValueError naming the models there are for an unknown name, UserError for a file that is wrong.
    """
    return validate(ModelConfig, read_yaml(named("models", name)))
