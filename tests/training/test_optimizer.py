"""Learning rates against numbers worked out by hand, AdamW against its formula, and its state saved and put back."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lethe.training.optimizer import learning_rate, load_optimizer_tensors, make_optimizer, optimizer_tensors
from lethe.training.stage import Recipe


def rates(steps: int, **recipe) -> list[float]:
    return [learning_rate(Recipe(batch=1, learning_rate=1.0, **recipe), step, steps) for step in range(steps)]


def test_wsd_warms_up_stays_and_decays():
    found = rates(10, warmup=0.2, decay=0.5, floor=0.1)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 0.82, 0.64, 0.46, 0.28, 0.1])


def test_cosine_warms_up_and_falls_to_the_floor_at_the_last_step():
    found = rates(10, schedule="cosine", warmup=0.2, floor=0.1)
    assert found[:2] == [0.5, 1.0]
    assert found[2:] == pytest.approx([0.1 + 0.9 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(1, 9)])
    assert found[-1] == pytest.approx(0.1)


@given(
    steps=st.integers(1, 400),
    schedule=st.sampled_from(["wsd", "cosine"]),
    warmup=st.floats(0, 1),
    share=st.floats(0, 1),
    floor=st.floats(0, 1),
)
def test_a_schedule_rises_then_falls_and_ends_at_its_floor(steps, schedule, warmup, share, floor):
    decay = {"decay": share * (1 - warmup)} if schedule == "wsd" else {}
    found = np.array(rates(steps, schedule=schedule, warmup=warmup, floor=floor, **decay))
    peak = found.argmax()
    assert (np.diff(found[: peak + 1]) >= 0).all()
    assert (np.diff(found[peak:]) <= 1e-12).all()
    assert (found > 0).all() or floor == 0
    assert found.max() <= 1 + 1e-12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "cosine", "decay": 0.2}, "decay"),
        ({"warmup": 0.8, "decay": 0.3}, "found 0.3 with warmup 0.8; allowed: together at most 1"),
        ({"warmup_at_switch": 0.9}, "found 0.3 with warmup_at_switch 0.9; allowed: together at most 1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(batch=1, learning_rate=1, **fields)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix, self.scale = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.ones(2))


RECIPE = Recipe(batch=1, learning_rate=0.01, weight_decay=0.1, betas=(0.9, 0.95))


def step(model: nn.Module, optimizer: torch.optim.AdamW, seed: int) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return [parameter.grad.double().numpy() for parameter in model.parameters() if parameter.grad is not None]


def test_it_is_adamw_with_decay_on_matrices_only():
    model = Small()
    optimizer = make_optimizer(model, RECIPE, {})
    expected = [p.detach().double().numpy().copy() for p in model.parameters()]
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in expected]
    for t in range(1, 6):
        for i, gradient in enumerate(step(model, optimizer, t)):
            first, second = moments[i]
            first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
            moments[i] = first, second
            decay = 0.1 if expected[i].ndim > 1 else 0.0
            update = first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.95**t)) + 1e-8)
            expected[i] = expected[i] * (1 - 0.01 * decay) - 0.01 * update
    for found, wanted in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-5)


def test_state_put_back_goes_on_with_the_same_bits():
    model, copy = Small(), Small()
    optimizer, other = make_optimizer(model, RECIPE, {}), make_optimizer(copy, RECIPE, {})
    for t in range(3):
        step(model, optimizer, t)
    copy.load_state_dict(model.state_dict())
    load_optimizer_tensors(other, {n: t.clone() for n, t in optimizer_tensors(optimizer).items()})
    for t in range(3, 6):
        step(model, optimizer, t)
        step(copy, other, t)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))


def test_a_parameter_of_another_shape_starts_without_moments():
    model = Small()
    optimizer = make_optimizer(model, RECIPE, {})
    step(model, optimizer, 0)
    tensors = optimizer_tensors(optimizer)
    grown = Small()
    grown.matrix = nn.Parameter(torch.zeros(4, 2))
    other = make_optimizer(grown, RECIPE, {})
    load_optimizer_tensors(other, tensors)
    assert not other.state[grown.matrix]
    assert torch.equal(other.state[grown.scale]["exp_avg"], tensors["exp_avg/scale"])


def test_a_factor_of_nothing_freezes():
    model = Small()
    optimizer = make_optimizer(model, RECIPE, {"matrix": 0.0, "scale": 0.5})
    assert [p.requires_grad for p in model.parameters()] == [False, True]
    assert [(g["names"], g["factor"]) for g in optimizer.param_groups] == [(["scale"], 0.5)]
