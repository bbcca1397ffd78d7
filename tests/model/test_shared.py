"""Parameters in common: which become one, and how they come apart again."""

import torch
from torch import nn

from lethe.model.shared import share_equal, unshare


def mixture() -> nn.ModuleDict:
    """Two layers of equal weights and other biases, and one of another shape."""
    model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2), "c": nn.Linear(2, 3)})
    model["b"].weight.data.copy_(model["a"].weight.data)
    model["c"].weight.data.copy_(model["a"].weight.data.T)
    return model


def numbers(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_equal_ones_become_one_and_every_name_keeps_its_numbers():
    model = mixture()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    share_equal(model)
    assert model["a"].weight is model["b"].weight
    assert numbers(model) == 6 + 2 + 2 + 6 + 3
    share_equal(model)
    assert numbers(model) == 19
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


def test_what_differs_by_one_number_stays_its_own():
    model = mixture()
    model["b"].weight.data[1, 2] += 1e-6
    share_equal(model)
    assert numbers(model) == 25


def test_apart_again_one_can_change_without_the_other():
    model = mixture()
    share_equal(model)
    assert unshare(model) is model
    assert numbers(model) == 25
    model["b"].weight.data.zero_()
    assert model["a"].weight.all()
