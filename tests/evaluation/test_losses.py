"""Held-out losses against a loop over single tokens, and what is held out."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from lethe.config import UserError
from lethe.evaluation.losses import evaluate, held_out_rows, unigram_entropy
from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.model.cost import rows_evaluated_at_once
from lethe.tokens.shards import TokenData
from lethe.worker import Worker

VOCAB, CONTEXT = 50, 12
ROWS_AT_ONCE = rows_evaluated_at_once(CONTEXT, VOCAB)
MODEL = ModelConfig(layers=2, heads=2, d_model=16, context=CONTEXT)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    built = build_model(MODEL, VOCAB)
    initialise(built, seed=3)
    for parameter in built.parameters():
        parameter.data *= 8  # far from uniform, so that sequences differ in loss
    return built


@torch.no_grad()
def nats(model: torch.nn.Module, rows: np.ndarray) -> list[float]:
    """Of every target, one sequence at a time, in float64."""
    found = []
    for row in rows:
        for scores, target in zip(model(torch.from_numpy(row[None, :-1]))[0].double().numpy(), row[1:], strict=True):
            found.append(math.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[target])
    return found


@pytest.mark.parametrize("n", [1, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 5, 2 * ROWS_AT_ONCE + 1])
def test_it_is_the_mean_over_all_tokens_whatever_remains_for_the_last_chunk(model, n):
    rng = np.random.default_rng(n)
    rows = rng.integers(0, VOCAB, (n, CONTEXT + 1))
    rows[-1] = rng.integers(0, 3, CONTEXT + 1)  # the last sequence is unlike the others
    lengths = rng.integers(0, 9, VOCAB)
    found, expected = evaluate(model, {"x": rows}, lengths, Worker()), nats(model, rows)
    assert found["loss/x"] == pytest.approx(np.mean(expected), rel=1e-5)
    in_bytes = sum(int(lengths[token]) for row in rows for token in row[1:])
    assert found["bpb/x"] == pytest.approx(sum(expected) / math.log(2) / in_bytes, rel=1e-5)


def test_ranks_share_the_sequences_so_that_each_is_counted_once(model, monkeypatch):
    """What the ranks add up is the whole: each one's part, seen before the sum, divided by all targets."""
    rows = {"x": np.random.default_rng(0).integers(0, VOCAB, (ROWS_AT_ONCE + 6, CONTEXT + 1))}
    lengths = np.ones(VOCAB, dtype=np.int64)
    monkeypatch.setattr(Worker, "sum", lambda self, values: values)
    whole = evaluate(model, rows, lengths, Worker())["loss/x"]
    for world in (2, 3, 4, 64):
        parts = [evaluate(model, rows, lengths, Worker(rank, world))["loss/x"] for rank in range(world)]
        assert sum(parts) == pytest.approx(whole, rel=1e-6)


def test_losses_are_float32_whatever_the_weights_type(model):
    rows = {"x": np.random.default_rng(0).integers(0, VOCAB, (40, CONTEXT + 1))}
    half = build_model(MODEL, VOCAB).bfloat16()
    half.load_state_dict({name: tensor.bfloat16() for name, tensor in model.state_dict().items()})
    found = evaluate(half, rows, np.ones(VOCAB, dtype=np.int64), Worker())["loss/x"]
    assert found == pytest.approx(np.mean(nats(half, rows["x"])), rel=1e-5)


class Split:
    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def windows(self, context: int) -> int:
        return (self.tokens - 1) // context

    def read(self, indices: np.ndarray, context: int) -> np.ndarray:
        return indices[:, None] * context + np.arange(context + 1)


def test_what_is_held_out_is_spread_evenly_and_fixed():
    rows = held_out_rows(Split(1001), 10, 4)  # type: ignore[arg-type]
    assert rows[:, 0].tolist() == [0, 250, 500, 750]
    assert len(held_out_rows(Split(31), 10, 99)) == 3  # type: ignore[arg-type]
    with pytest.raises(UserError, match="found 10 tokens; allowed: more than the context, 10"):
        held_out_rows(Split(10), 10, 4)  # type: ignore[arg-type]


def test_the_unigram_entropy_is_that_of_counting_by_hand(toy_tokens: TokenData):
    split = toy_tokens.split("food", "train")
    context = min(1024, split.tokens - 1)
    ids = split.read(np.arange(split.windows(context)), context)[:, 1:].ravel()
    counts = Counter(ids.tolist())
    by_hand = -sum(n / len(ids) * math.log(n / len(ids)) for n in counts.values())
    assert len(ids) > 0.9 * split.tokens - 1024
    assert unigram_entropy(split, toy_tokens.vocab_size) == pytest.approx(by_hand)
