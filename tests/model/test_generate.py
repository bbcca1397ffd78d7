"""Sampling: seeded, greedy at temperature 0, within the vocabulary and a window, with or without a cache the same."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.model.generate import generate, pick

VOCAB, PADDED = 50, 64
START = torch.tensor([[3, 1, 4]])


def drawn(implementation: str = "torch", context: int = 8) -> nn.Module:
    config = ModelConfig(layers=2, heads=2, d_model=32, context=context, implementation=implementation)  # type: ignore[arg-type]
    model = build_model(config, PADDED)
    initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return drawn()


def sample(model: nn.Module, ids: Tensor = START, **given: object) -> list[int]:
    settings = {"context": 8, "tokens": 20, "temperature": 1.0, "top_k": None, "seed": 0, "vocab": VOCAB, "stop": None}
    return list(generate(model, ids, **(settings | given)))  # type: ignore[arg-type]


def test_the_seed_decides(model: nn.Module) -> None:
    assert sample(model) == sample(model)
    assert sample(model) != sample(model, seed=1)
    assert len(sample(model)) == 20


def test_a_shorter_text_is_the_head_of_a_longer_one(model: nn.Module) -> None:
    assert sample(model, tokens=7) == sample(model)[:7]


def test_temperature_0_takes_the_likeliest_after_a_window_that_lets_go_of_its_first_half(model: nn.Module) -> None:
    window = START[0].tolist()
    for token in sample(model, temperature=0.0, seed=5, tokens=40):
        if len(window) > 8:
            window = window[4:]
        assert token == model(torch.tensor([window]))[0, -1, :VOCAB].argmax()
        window.append(token)


@settings(max_examples=30)
@given(
    context=st.integers(1, 9),
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=25),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    seed=st.integers(0, 99),
)
def test_with_a_cache_the_text_is_the_same(context: int, prompt: list[int], temperature: float, seed: int) -> None:
    """The model written out takes no cache; nor does a model of any other class, whatever it makes use of."""

    class Reshaped(nn.Module):
        def __init__(self, trunk: nn.Module) -> None:
            super().__init__()
            self.trunk = trunk

        def forward(self, ids: Tensor) -> Tensor:
            return self.trunk(ids)

    cached, written_out = drawn(context=context), drawn("fundamentals", context)
    asked = {"context": context, "temperature": temperature, "seed": seed, "top_k": 20, "top_p": 0.95}
    texts = [sample(model, torch.tensor([prompt]), **asked) for model in (cached, written_out, Reshaped(cached))]
    assert texts[0] == texts[1] == texts[2]


def test_a_text_goes_on_the_same_wherever_its_prompt_ended(model: nn.Module) -> None:
    tokens = sample(model, temperature=0.0, tokens=40)
    for cut in (1, 5, 6, 17, 30):
        prompt = torch.cat((START, torch.tensor([tokens[:cut]])), dim=1)
        assert sample(model, prompt, temperature=0.0, tokens=40 - cut) == tokens[cut:]


def test_within_the_context_each_token_is_read_once() -> None:
    model, read = drawn(context=32), []
    model.embedding.register_forward_hook(lambda _, ids, __: read.append(ids[0].shape[1]))
    assert len(sample(model, context=32)) == 20
    assert read == [3, *[1] * 19]


def test_top_1_is_greedy(model: nn.Module) -> None:
    assert sample(model, top_k=1) == sample(model, top_p=1e-6) == sample(model, temperature=0.0)


def test_stop_ends_before_itself(model: nn.Module) -> None:
    tokens = sample(model)
    assert sample(model, stop=tokens[4]) == tokens[: tokens.index(tokens[4])]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_padding_is_never_drawn(model: nn.Module, temperature: float) -> None:
    # Of 64 rows only 5 are tokens: at this temperature nearly every step would draw padding.
    assert set(sample(model, vocab=5, temperature=temperature)) <= set(range(5))


def shares(logits: Tensor, temperature: float, top_k: int | None, top_p: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    draws = [pick(logits, temperature, top_k, top_p, generator) for _ in range(4000)]
    return torch.tensor(draws).bincount(minlength=len(logits)) / 4000


def test_draws_follow_the_softmax_of_the_top_k() -> None:
    expected = torch.tensor([0.0, 4.0, 2.0, -torch.inf]).softmax(dim=0)
    found = shares(torch.tensor([0.0, 2.0, 1.0, -1.0]), 0.5, 3, 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    assert found[3] == 0


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-6, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.89, 3), (0.91, 4), (1.0, 4)],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, kept: int) -> None:
    order, probabilities = torch.tensor([2, 0, 3, 1]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    logits = torch.empty(4).scatter_(0, order, probabilities.log() + 7)
    expected = torch.zeros(4).scatter_(0, order[:kept], probabilities[:kept] / probabilities[:kept].sum())
    found = shares(logits, 1.0, None, top_p)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.025)
    assert ((found > 0) == (expected > 0)).all()


def test_the_nucleus_is_taken_after_temperature_and_top_k() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # At temperature 1/2 the shares are 16 : 9 : 4 : 1, and of the first three 0.55, 0.31, 0.14.
    expected = torch.tensor([16 / 25, 9 / 25, 0, 0])
    torch.testing.assert_close(shares(logits, 0.5, 3, 0.85), expected, rtol=0, atol=0.025)


@pytest.mark.parametrize("temperature", [1e-320, 1e-300, 1e-10, 1e300])
def test_no_temperature_overflows(temperature: float) -> None:
    logits = torch.tensor([-90.0, 30.0, 80.0, 79.0])
    found = shares(logits, temperature, None, 1.0)
    expected = torch.tensor([0.0, 0, 1, 0]) if temperature < 1 else torch.full((4,), 0.25)
    assert math.isclose(found.sum().item(), 1, abs_tol=1e-6)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.025)
