"""Replay of texts sampled from the model of A: cross-entropy on them, as on text (Sun et al. 2020, LAMOL).

The control of `distill`: the same samples at the same steps, but of the model of A only the ids drawn, not its
probabilities. The loss is that of the stage plus `weight` times the cross-entropy, a mean over the tokens of the rows
that come on top of the stage's own. Weight 0 adds no row and is plain training bit for bit.

A baseline: it is expected to lose clearly to `distill`, which shows that soft targets matter more than the texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from lethe.config import Config
from lethe.interventions.interface import Cost, Intervention, Switch

if TYPE_CHECKING:
    from torch import Tensor


class ReplaySelf(Intervention):
    """Needs the unigram counts of A for the samples, and nothing else of it while it trains."""

    class Parameters(Config):
        weight: NonNegativeFloat = 1
        rows: PositiveFloat = 0.25
        sequences: PositiveInt = 512
        start: Literal["unigram", "eos"] = "unigram"

    parameters: Parameters

    def __init__(self, parameters: Parameters, switch: Switch) -> None:
        from lethe.interventions.derived import Pool, self_samples

        super().__init__(parameters, switch)
        if parameters.weight:
            self.pool = Pool(self_samples(switch, parameters.sequences, parameters.start), parameters.rows, switch)

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        assert isinstance(parameters, cls.Parameters)
        rows = parameters.rows if parameters.weight else 0
        return Cost("samples", rows=rows, flops=1 + rows)

    def penalty(self, logits: Tensor, rows: Tensor, extra: int) -> Tensor | None:
        from torch.nn import functional as F

        if not self.pool or not extra:
            return None
        targets = rows[-extra:, 1:].flatten()
        total = F.cross_entropy(logits[-extra:].float().flatten(0, 1), targets, reduction="sum")
        return self.parameters.weight * self.pool.mean(total)
