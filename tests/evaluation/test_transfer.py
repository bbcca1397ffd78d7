"""Metrics over several corpora and against other cells: numbers of Avalanche, and others worked out by hand."""

import numpy as np
import pytest

from benchmarks.avalanche_reference import MATRICES
from lethe.evaluation import transfer
from lethe.evaluation.forgetting import forgetting, forgetting_best, plasticity
from lethe.evaluation.history import History, StageCurve

# What benchmarks/avalanche_reference.py prints with avalanche-lib 0.6.0, rounded to 10 digits.
AVALANCHE = {
    "two stages": {
        "forgetting": {0: 1.64},
        "mean BWT": -1.64,
        "forward transfer": {1: 0.68},
        "mean forward transfer": 0.68,
    },
    "three stages": {
        "forgetting": {0: 1.17, 1: 1.68},
        "mean BWT": -1.425,
        "forward transfer": {1: 0.68, 2: 1.52},
        "mean forward transfer": 1.1,
    },
    "four stages, some transfer backward": {
        "forgetting": {0: 0.25, 1: 0.375, 2: 0.25},
        "mean BWT": -0.2916666667,
        "forward transfer": {1: 0.25, 2: 0.5, 3: -0.5},
        "mean forward transfer": 0.0833333333,
    },
}


def cell(losses: list[list[float]]) -> History:
    """The cell with this matrix: stage i learns corpus i, and is marked at its ends."""
    stages = []
    for i, (before, after) in enumerate(zip(losses, losses[1:], strict=False)):
        points = {f"loss/{x}": np.array([[0, before[x]], [100, after[x]]]) for x in range(len(before))}
        stages.append(StageCurve({str(i): 1.0}, 100, 1.0, points))
    return History(stages)


@pytest.mark.parametrize("name", MATRICES)
def test_as_avalanche(name: str):
    losses, expected = MATRICES[name], AVALANCHE[name]
    history, corpora = cell(losses), [str(i) for i in range(len(losses) - 1)]
    assert np.stack([history.losses(corpus) for corpus in corpora], axis=1).tolist() == losses
    lost = {i: value for i, x in enumerate(corpora) if (value := forgetting(history, x)) is not None}
    assert lost == pytest.approx(expected["forgetting"])
    assert transfer.backward_transfer(history) == pytest.approx(expected["mean BWT"])
    assert transfer.forward_transfer(history) == pytest.approx(expected["mean forward transfer"])
    for i, gain in expected["forward transfer"].items():
        alone = History(history.stages[: i + 1])  # the mean over corpora 1 to i, of which the last is left
        taught = transfer.forward_transfer(alone) * i
        assert taught - sum(expected["forward transfer"][j] for j in range(1, i)) == pytest.approx(gain)


@pytest.mark.parametrize("name", MATRICES)
def test_as_the_papers_write_it(name: str):
    """Chaudhry et al. 2018, eq. 3, and Lopez-Paz & Ranzato 2017, on accuracies a[k, j] = -loss, k and j from 1."""
    a = -np.array(MATRICES[name])
    T = len(a) - 1
    history = cell(MATRICES[name])
    for j in range(1, T):
        f = max(a[k, j - 1] for k in range(1, T)) - a[T, j - 1]
        assert forgetting_best(history, str(j - 1)) == pytest.approx(f)
    bwt = sum(a[T, j - 1] - a[j, j - 1] for j in range(1, T)) / (T - 1)
    fwt = sum(a[j - 1, j - 1] - a[0, j - 1] for j in range(2, T + 1)) / (T - 1)
    assert transfer.backward_transfer(history) == pytest.approx(bwt)
    assert transfer.forward_transfer(history) == pytest.approx(fwt)
    learned = [a[j, j - 1] - a[j - 1, j - 1] for j in range(1, T + 1)]
    assert [plasticity(history, str(j)) for j in range(T)] == pytest.approx(learned)


def stage(mixture: dict[str, float], a: tuple[float, float], b: tuple[float, float]) -> StageCurve:
    points = {f"loss/{x}": np.array([[0, ends[0]], [400, ends[1]]]) for x, ends in (("a", a), ("b", b))}
    points |= {name.replace("loss", "bpb"): curve * [1, 0.25] for name, curve in points.items()}
    return StageCurve(mixture, 400, 2.0, points)


A = stage({"a": 1.0}, (8, 4), (8, 6.5))
B = stage({"b": 1.0}, (8, 7), (8, 4.5))
THEN_B = stage({"a": 0.1, "b": 0.9}, (4, 5.5), (6.5, 4.75))
BOTH = stage({"a": 0.5, "b": 0.5}, (8, 4.25), (8, 4.5))
AB = History([A, THEN_B], [A, B, BOTH])


@pytest.mark.parametrize(
    ("name", "corpus", "value"),
    [
        ("fraction_lost", "a", 1.5 / 3),  # of the gain 7 - 4
        ("fraction_lost", "b", None),
        ("intransigence", "b", 0.25),
        ("intransigence", "a", -0.25),
        ("gap_to_combined", "a", 1.25),
        ("gap_to_combined", "b", 0.25),
    ],
)
def test_against_other_cells_by_hand(name: str, corpus: str, value: float | None):
    metric = getattr(transfer, name)
    assert metric(AB, corpus) == (None if value is None else pytest.approx(value))
    assert metric(History([A, THEN_B]), corpus) is None  # without the other cells


def test_the_means_over_corpora_by_hand():
    assert transfer.backward_transfer(AB) == -1.5
    assert transfer.forward_transfer(AB) == 1.5
    assert transfer.average_loss(AB) == 5.125


def test_a_share_needs_a_gain_and_a_model_that_never_saw_the_corpus():
    worse = stage({"b": 1.0}, (8, 3.5), (8, 4.5))  # b teaches more of a than a itself
    assert transfer.fraction_lost(History([A, THEN_B], [A, worse, BOTH]), "a") is None
    assert transfer.fraction_lost(History([A, THEN_B], [A, BOTH]), "a") is None


def test_combined_forgets_nothing_and_is_its_own_reference():
    alone = History([BOTH], [A, B, BOTH])
    assert transfer.gap_to_combined(alone, "a") is transfer.intransigence(alone, "b") is None
    assert transfer.backward_transfer(alone) is transfer.forward_transfer(alone) is None
    assert transfer.average_loss(alone) == 4.375
