"""Two whole models and a router between them: at every token a mixture of their probabilities.

The next token has probability w p_path + (1 - w) p_trunk. w is the sigmoid of evidence that fades by `gamma` a token:
`bayes`        each token read adds log p_path - log p_trunk, what the two had given it. Without fading w is the
               posterior of the path after even odds: any text costs at most ln 2 nats more than under the better model.
`naive_bayes`  each token read, the first included, adds a number of its own: `ratio`, the log of how much more frequent
               it is in the path's text than in the trunk's.
`even`         nothing counts as evidence: w = 1/2, the control.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Router = Literal["bayes", "naive_bayes", "even"]


class Routed(nn.Module):
    """The mixture of `trunk` and `path`, which share a vocabulary and may be mixtures themselves.

    `ratio` is float32 [V], for `naive_bayes` alone.
    """

    ratio: Tensor | None

    def __init__(
        self, trunk: nn.Module, path: nn.Module, router: Router, gamma: float, ratio: Tensor | None = None
    ) -> None:
        super().__init__()
        self.trunk, self.path = trunk, path
        self.router, self.gamma = router, gamma
        self.register_buffer("ratio", ratio)

    def forward(self, ids: Tensor) -> Tensor:
        """Log-probabilities [B, T, V], float32, of the token after each of `ids` (int64 [B, T]); as logits they serve.

        Those after token t depend on nothing beyond it: neither in the models nor in the router.
        """
        trunk = self.trunk(ids).float().log_softmax(-1)
        path = self.path(ids).float().log_softmax(-1)
        odds = self.log_odds(ids, trunk, path)[..., None]
        trunk = trunk + F.logsigmoid(-odds)  # one after the other: three tensors of this size at once, not five
        path = path + F.logsigmoid(odds)
        return torch.logaddexp(trunk, path)

    def log_odds(self, ids: Tensor, trunk: Tensor, path: Tensor) -> Tensor:
        """log w / (1 - w) after each token, float32 [B, T], from the two models' log-probabilities [B, T, V]."""
        if self.router == "naive_bayes":
            assert self.ratio is not None
            return faded_sum(self.ratio[ids], self.gamma)
        if self.router == "even":
            return torch.zeros_like(trunk[..., 0])
        read = ids[:, 1:, None]  # nothing was foretold of the first
        gained = path[:, :-1].gather(-1, read) - trunk[:, :-1].gather(-1, read)
        return faded_sum(F.pad(gained[..., 0], (1, 0)), self.gamma)


def faded_sum(x: Tensor, gamma: float) -> Tensor:
    """s_t = gamma s_{t-1} + x_t along the last axis, as one product: x [B, T] by gamma^(t - u) for all u up to t."""
    places = torch.arange(x.shape[-1], device=x.device)
    age = places - places[:, None]  # [u, t]
    weights = torch.where(age >= 0, gamma ** age.clamp(min=0).to(x.dtype), 0.0)
    with torch.autocast(x.device.type, enabled=False):  # a sum of hundreds of terms is not for bfloat16
        return x @ weights
