"""Freezing: parts of the model of A stay as they are (both ends: Ramasesh et al. 2021; Zheng et al. 2025, the bottom).

Without parts it is plain training bit for bit; with `all` it is the model of A. A baseline: alone it is expected to
lose. Half the blocks hardly help, for forgetting sits in the tied embedding; and without that B cannot be learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lethe.config import Config
from lethe.interventions.interface import Intervention

if TYPE_CHECKING:
    from torch import nn


class Freeze(Intervention):
    """Needs no data of A, and no memory: what is frozen has no optimizer state."""

    class Parameters(Config):
        parts: tuple[Literal["embedding", "bottom", "top", "attention", "ffn", "norms", "all"], ...]

    parameters: Parameters

    def learning_rates(self, model: nn.Module) -> dict[str, float]:
        half, parts = self.switch.stage.model.layers / 2, self.parameters.parts
        return {name: 0.0 for name, _ in model.named_parameters() if any(is_in(name, part, half) for part in parts)}


def is_in(name: str, part: str, half: float) -> bool:
    """Whether a parameter, such as `blocks.1.ffn.down.weight`, is in a part; `bottom` has the middle block."""
    words = name.split(".")
    if part in ("bottom", "top"):
        return "blocks" in words and (int(words[words.index("blocks") + 1]) < half) == (part == "bottom")
    if part == "norms":
        return name.endswith("norm.weight")
    return part == "all" or part in words
