"""Sampling: seeded, greedy at temperature 0, within the vocabulary and the context."""

import pytest
import torch
from torch import Tensor, nn

from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.model.generate import generate, pick

VOCAB, PADDED = 50, 64
START = torch.tensor([[3, 1, 4]])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    config = ModelConfig(layers=2, heads=2, d_model=32, context=8)
    model = build_model(config, PADDED)
    initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def sample(model: nn.Module, ids: Tensor = START, **given: object) -> list[int]:
    settings = {"context": 8, "tokens": 20, "temperature": 1.0, "top_k": None, "seed": 0, "vocab": VOCAB, "stop": None}
    return list(generate(model, ids, **(settings | given)))  # type: ignore[arg-type]


def test_the_seed_decides(model: nn.Module) -> None:
    assert sample(model) == sample(model)
    assert sample(model) != sample(model, seed=1)
    assert len(sample(model)) == 20


def test_a_shorter_text_is_the_head_of_a_longer_one(model: nn.Module) -> None:
    assert sample(model, tokens=7) == sample(model)[:7]


def test_temperature_0_takes_the_likeliest_after_the_last_context(model: nn.Module) -> None:
    ids = START[0].tolist()
    for token in sample(model, temperature=0.0, seed=5):
        assert token == model(torch.tensor([ids[-8:]]))[0, -1, :VOCAB].argmax()
        ids.append(token)


def test_top_1_is_greedy(model: nn.Module) -> None:
    assert sample(model, top_k=1) == sample(model, temperature=0.0)


def test_stop_ends_before_itself(model: nn.Module) -> None:
    tokens = sample(model)
    assert sample(model, stop=tokens[4]) == tokens[: tokens.index(tokens[4])]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_padding_is_never_drawn(model: nn.Module, temperature: float) -> None:
    # Of 64 rows only 5 are tokens: at this temperature nearly every step would draw padding.
    assert set(sample(model, vocab=5, temperature=temperature)) <= set(range(5))


def test_draws_follow_the_softmax_of_the_top_k() -> None:
    logits, generator = torch.tensor([0.0, 2.0, 1.0, -1.0]), torch.Generator().manual_seed(0)
    draws = torch.tensor([pick(logits, 0.5, 3, generator) for _ in range(4000)]).bincount(minlength=4) / 4000
    expected = torch.tensor([0.0, 4.0, 2.0, -torch.inf]).softmax(dim=0)
    torch.testing.assert_close(draws, expected, rtol=0, atol=0.02)
