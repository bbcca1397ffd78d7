"""Matrices with a trained product of low rank added to them (LoRA, Hu et al. 2022), and the sums made plain again."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lethe.model.build import drawn


class LowRank(nn.Module):
    """W + factor * b a: `a` [rank, in] is drawn as a layer's input weights would be, `b` [out, rank] begins at 0."""

    def __init__(self, weight: Tensor, rank: int, factor: float, seed: str) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.low_a = nn.Parameter(drawn(weight, (rank, columns), columns**-0.5, seed))
        self.low_b = nn.Parameter(weight.new_zeros(rows, rank))
        self.factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.factor * (self.low_b @ self.low_a)


def add_low_rank(model: nn.Module, rank: int, factor: float, seed: int) -> None:
    """To every matrix of the model's blocks, in place; `a` comes from the seed and the matrix's name alone."""
    matrices = [
        (name, module)
        for name, module in model.named_modules()
        if "blocks" in name.split(".") and getattr(module, "weight", torch.empty(0)).dim() == 2
    ]
    for name, module in matrices:
        added = LowRank(module.weight, rank, factor, f"{seed}/low rank/{name}")
        parametrize.register_parametrization(module, "weight", added)


def merge_low_rank(model: nn.Module) -> None:
    """Add the products to their matrices, in place: the model has its plain shape again."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
