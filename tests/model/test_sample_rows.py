"""Rows sampled many at a time: as the model's own probabilities say, with a cache or without, from the seed alone."""

import numpy as np
import pytest
import torch

from lethe.model import generate
from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.model.generate import sample_rows

VOCAB, PADDED, CONTEXT = 11, 16, 6


def drawn(implementation: str = "torch") -> torch.nn.Module:
    config = ModelConfig(layers=2, heads=2, d_model=16, context=CONTEXT, implementation=implementation)  # type: ignore[arg-type]
    model = build_model(config, PADDED)
    initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def sample(model: torch.nn.Module, first: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return sample_rows(model, first, CONTEXT, VOCAB, torch.Generator().manual_seed(seed))


def test_rows_begin_as_told_fill_the_context_and_stay_in_the_vocabulary():
    rows = sample(drawn(), torch.arange(10))
    assert rows.shape == (10, CONTEXT + 1)
    assert rows.dtype == torch.int64
    assert (rows[:, 0] == torch.arange(10)).all()
    assert rows.max() < VOCAB
    assert torch.equal(rows, sample(drawn(), torch.arange(10)))
    assert not torch.equal(rows, sample(drawn(), torch.arange(10), seed=1))


def test_a_cache_changes_nothing():
    first = torch.arange(VOCAB).repeat(9)
    assert torch.equal(sample(drawn(), first), sample(drawn("fundamentals"), first))


@pytest.mark.parametrize("position", [1, 4, CONTEXT])
def test_each_id_is_drawn_by_the_probability_that_the_model_gives_it(position):
    """The rows' own mean of p(id) under the model against what drawing from p gives on average, sum p^2."""
    model = drawn()
    rows = sample(model, torch.zeros(20_000, dtype=torch.int64))
    with torch.no_grad():
        p = model(rows[:, :position])[:, -1, :VOCAB].softmax(-1)
    residual = torch.nn.functional.one_hot(rows[:, position], VOCAB) - p
    error = (p * (1 - p)).sum(0).sqrt()
    assert (residual.sum(0).abs() < 4.5 * error).all()
    assert np.abs(p.std(0)).max() > 0.01 or position == 1, "the probabilities do not depend on what came before"


def test_with_little_memory_it_takes_fewer_rows_at_once(monkeypatch):
    a_row = 2 * 2 * CONTEXT * 16
    whole = sample(drawn(), torch.arange(10))
    monkeypatch.setattr(generate, "NUMBERS_AT_ONCE", 4 * a_row)
    parts = sample(drawn(), torch.arange(10))
    assert parts.shape == whole.shape
    assert torch.equal(parts[:, 0], whole[:, 0])
    assert torch.equal(parts[:4], sample(drawn(), torch.arange(4)))
