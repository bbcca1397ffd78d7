"""A model whose logits are shifted by a vector: another prior over the vocabulary."""

import torch
from torch import Tensor, nn


class Shifted(nn.Module):
    """`trunk` and the shift of its logits, [V], 0 until it is set."""

    trunk: nn.Module
    shift: Tensor

    def __init__(self, trunk: nn.Module, vocab_size: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("shift", torch.zeros(vocab_size))

    def forward(self, ids: Tensor) -> Tensor:
        return self.trunk(ids) + self.shift
