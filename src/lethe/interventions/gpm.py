"""Gradient projection memory: matrices change only where the inputs of A do not reach (Saha, Garg & Roy 2021).

Of every matrix (the tied embedding as the head), the fewest directions M of its inputs on A that hold `share` of their
squared norm (their eq. 5, over all inputs at once): what changes is projected off them, W <- W - (W - W_A) M M^T, after
the optimizer's step, for AdamW would turn a projected gradient back into them. The change since A is projected, which
is the same at every step and needs no memory of the step before. Norms are frozen. Share 0 protects nothing and is
plain training bit for bit, share 1 everything and is the model of A.

A baseline: it is expected to lose. What A uses is nearly all there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from lethe.config import Config
from lethe.interventions.interface import Cost, Intervention, Switch

if TYPE_CHECKING:
    from torch import Tensor, nn


class ProjectOffInputs(Intervention):
    """Needs statistics of A: second moments of inputs, from rows of its text; holds the weights of A."""

    class Parameters(Config):
        share: Annotated[float, Field(ge=0, le=1)] = 0.95
        sequences: PositiveInt = 256

    parameters: Parameters

    def __init__(self, parameters: Parameters, switch: Switch) -> None:
        from lethe.interventions.derived import input_moments

        super().__init__(parameters, switch)
        self.protected: dict[str, Tensor] = {}
        if parameters.share:
            self.anchor = dict(switch.frozen(switch.parent).named_parameters())
            moments = input_moments(switch, parameters.sequences)
            self.protected = {n: projection(m, parameters.share).to(switch.worker.device) for n, m in moments.items()}

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        return Cost("statistics", weights=1)

    def learning_rates(self, model: nn.Module) -> dict[str, float]:
        return {name: 0.0 for name, _ in model.named_parameters() if self.protected and name not in self.protected}

    def after_step(self, model: nn.Module, learning_rate: float) -> None:
        named = dict(model.named_parameters())
        for name, protected in self.protected.items():
            named[name].data.sub_((named[name].data - self.anchor[name]) @ protected)


def projection(moments: Tensor, share: float) -> Tensor:
    """M M^T onto the fewest leading eigenvectors M of `moments` (float32 [in, in]) that hold `share` of its trace."""
    import torch

    values, vectors = torch.linalg.eigh(moments.double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if share == 1:
        return torch.eye(len(values))
    held = values.cumsum(0) / values.sum()
    kept = vectors[:, : int((held < share).sum()) + 1]
    return (kept @ kept.T).float()
