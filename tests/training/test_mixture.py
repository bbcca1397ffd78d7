"""Which window fills which slot is a pure function, spread evenly, and no window is read twice an epoch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lethe.training.mixture import assign, draws, permute

weights = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.floats(0.01, 1), min_size=1, max_size=4).map(
    lambda m: {name: weight / sum(m.values()) for name, weight in m.items()}
)


@given(weights, st.integers(1, 400), st.integers(1, 17))
def test_every_slot_is_filled_once_and_each_corpus_is_read_in_order(mixture, windows, batch):
    seen: dict[str, list[int]] = {name: [] for name in mixture}
    for start in range(0, windows, batch):
        slots = np.arange(start, min(start + batch, windows))
        assigned = assign(mixture, slots)
        filled = np.concatenate([indices for indices, _ in assigned.values()])
        assert sorted(filled) == list(range(len(slots)))
        for name, (_, counts) in assigned.items():
            seen[name] += counts.tolist()
    assert {name: list(range(len(counts))) for name, counts in seen.items()} == seen
    assert {name: len(counts) for name, counts in seen.items()} == draws(mixture, windows)


@given(weights, st.integers(1, 100_000))
def test_counts_never_stray_from_their_share(mixture, windows):
    for name, count in draws(mixture, windows).items():
        assert abs(count - mixture[name] * windows) <= len(mixture)


def test_a_small_share_is_spread_evenly_not_clumped():
    slots = np.arange(1000)
    indices, _ = assign({"new": 0.95, "old": 0.05}, slots)["old"]
    assert len(indices) == 50
    assert set(np.diff(indices)) == {20}


@given(st.integers(1, 5000), st.text(max_size=8))
def test_permutations_are_permutations(size, seed):
    assert sorted(permute(np.arange(size), size, seed)) == list(range(size))


def test_a_permutation_can_be_asked_anywhere_and_depends_on_its_seed():
    whole = permute(np.arange(10_000), 10_000, "s")
    assert (permute(np.array([9_999, 5, 5]), 10_000, "s") == whole[[9_999, 5, 5]]).all()
    assert (permute(np.arange(10_000), 10_000, "t") != whole).mean() > 0.99


def test_a_permutation_looks_shuffled():
    image = permute(np.arange(100_000), 100_000, "0/food/0")
    assert abs(np.corrcoef(np.arange(100_000), image)[0, 1]) < 0.02
    assert abs((np.diff(image) > 0).mean() - 0.5) < 0.01
    assert abs(image[:1000].mean() / 50_000 - 1) < 0.1


def test_the_order_of_data_never_changes_between_versions():
    assert permute(np.arange(5), 1000, "0/food/0").tolist() == [201, 325, 650, 309, 120]
