"""Which rows a step reads: the ranks share them out, a seed orders them, and a later stage reads on."""

import numpy as np
import pytest

from lethe.model.config import ModelConfig
from lethe.training.sampler import MixtureSampler
from lethe.training.stage import Recipe, Stage

CONTEXT, BATCH, STEPS = 32, 8, 20
TOY = ModelConfig(layers=1, heads=1, d_model=32, d_ff=128, context=CONTEXT)


def stage(**changes) -> Stage:
    given = {"model": TOY, "mixture": {"food": 1}, "tokens": STEPS * BATCH * CONTEXT, "seed": 0}
    return Stage(**given | {"recipe": Recipe(batch=BATCH, learning_rate=1e-3)} | changes)


@pytest.fixture
def read(toy_tokens):
    """All rows of a stage, in its order."""

    def rows(a_stage: Stage) -> np.ndarray:
        sampler = MixtureSampler(a_stage, toy_tokens)
        return np.concatenate([sampler.rows(step) for step in range(a_stage.steps)])

    return rows


def distinct(rows: np.ndarray) -> int:
    return len(np.unique(rows, axis=0))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_read_the_rows_of_one_process_in_its_order(toy_tokens, world):
    sampler = MixtureSampler(stage(mixture={"food": 0.7, "automotive": 0.3}), toy_tokens)
    for step in (7, 0, 19):
        shared = [sampler.rows(step, rank, world) for rank in range(world)]
        assert np.array_equal(np.concatenate(shared), sampler.rows(step))


def test_a_row_is_a_window_of_its_corpus_and_a_share_of_rows_is_its_share(read, toy_tokens):
    split = toy_tokens.split("automotive", "train")
    windows = {row.tobytes() for row in split.read(np.arange(split.windows(CONTEXT)), CONTEXT).astype(np.int64)}
    rows = read(stage(mixture={"food": 0.75, "automotive": 0.25}))
    assert sum(row.tobytes() in windows for row in rows) == STEPS * BATCH / 4


def test_a_seed_orders_the_rows_and_none_comes_twice(read):
    one, other = read(stage()), read(stage(seed=1))
    assert distinct(one) == distinct(other) == STEPS * BATCH
    assert not np.array_equal(one, other)


def test_none_comes_again_before_all_have_come(read, toy_tokens):
    there = toy_tokens.split("food", "train").windows(CONTEXT)
    rows = read(stage(tokens=(there + 2 * BATCH) * CONTEXT))
    assert distinct(rows[:there]) == distinct(rows) == there < len(rows)


def test_a_later_stage_reads_on_where_those_before_it_ended(read):
    first, other = stage(), stage(mixture={"automotive": 1}, parent=stage())
    rows = np.concatenate([read(first), read(stage(parent=first)), read(stage(parent=other, reads=()))])
    assert distinct(rows[: 2 * STEPS * BATCH]) == 2 * STEPS * BATCH
    assert np.array_equal(rows[STEPS * BATCH : 2 * STEPS * BATCH], rows[2 * STEPS * BATCH :])  # B's tokens are not A's
