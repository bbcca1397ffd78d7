"""Metrics of one cell from its own curves, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lethe.evaluation import forgetting
from lethe.evaluation.history import History, StageCurve

TOKENS = [0, 100, 400]


def curve(mixture: dict[str, float], a: list[float], b: list[float], tokens: list[int] = TOKENS) -> StageCurve:
    """A stage that is marked at these tokens; bits per byte are half the nats."""
    points = {}
    for corpus, values in (("a", a), ("b", b)):
        points[f"loss/{corpus}"] = np.array(list(zip(tokens, values, strict=True)), dtype=float)
        points[f"bpb/{corpus}"] = points[f"loss/{corpus}"] * [1, 0.5]
    return StageCurve(mixture, tokens[-1], 2.0, points)


A = curve({"a": 1.0}, [8, 5, 4], [8, 7, 6.5])
THEN_B = curve({"a": 0.1, "b": 0.9}, [4, 5, 5.5], [6.5, 5, 4.75])
THEN_A = curve({"a": 1.0}, [5.5, 4.5, 3.75], [4.75, 5, 5.25])
AB, ABA = History([A, THEN_B]), History([A, THEN_B, THEN_A])
# The loss on a jumps to 7 within 50 tokens, then most of it comes back.
JUMP = curve({"b": 1.0}, [4, 7, 4.5], [6.5, 5, 4.75], [0, 50, 400])
KEPT = curve({"a": 0.5, "b": 0.5}, [4, 5, 3.5], [6.5, 5, 4.75])
BETTER = curve({"b": 1.0}, [4, 3.5, 3], [6.5, 5, 4.75])


def history(*later: StageCurve) -> History:
    return History([A, *later])


@pytest.mark.parametrize(
    ("name", "cell", "corpus", "value"),
    [
        ("final_loss", AB, "a", 5.5),
        ("learned_loss", AB, "a", 4.0),
        ("learned_loss", AB, "b", 4.75),
        ("forgetting", AB, "a", 1.5),
        ("forgetting", AB, "b", None),  # learned last: there is nothing later that could take it away
        ("forgetting", ABA, "a", -0.25),
        ("forgetting", ABA, "b", 0.5),
        ("forgetting_best", AB, "a", 1.5),
        ("forgetting_best", AB, "b", None),
        ("forgetting_best", History([A, BETTER, THEN_B]), "a", 2.5),  # 3 after the second stage, 5.5 at the end
        ("forgetting_best", ABA, "a", -0.25),
        ("forgetting_area", AB, "a", (0.5 * 100 + 1.25 * 300) / 400),
        ("forgetting_area", ABA, "a", (0.5 * 100 + 1.25 * 300 + 1.0 * 100 + 0.125 * 300) / 800),
        ("half_forgetting_tokens", AB, "a", 75.0),  # half of 1.5 is .75; the first 100 tokens add 1
        ("half_forgetting_tokens", ABA, "b", 100.0),  # half of .5, at a mark
        ("half_forgetting_tokens", ABA, "a", None),  # it is better at the end than when it was learned
        ("compute_equivalent", AB, "a", 1 - (100 * 2.5 / 3) / 400),  # 5.5 on the way from 8 to 5 in 100 tokens
        ("compute_equivalent", history(curve({"b": 1}, [4, 4.5, 4.25], [6, 5, 4])), "a", 1 - (100 + 300 * 0.75) / 400),
        ("compute_equivalent", history(curve({"b": 1}, [4, 6, 9], [6, 5, 4])), "a", 1.0),  # worse than untrained
        ("compute_equivalent", history(BETTER), "a", 0.0),
        ("compute_equivalent", AB, "b", None),
        ("stability_gap", history(JUMP), "a", 2.5),
        ("stability_gap", AB, "a", 0.0),  # it only rises
        ("stability_gap", AB, "b", None),
        ("stability_gap", ABA, "a", 0.0),  # the third stage, which comes back to a, is another matter
        ("time_to_recover", history(KEPT), "a", 100 + 300 * (5 - 4) / 1.5),
        ("time_to_recover", history(BETTER), "a", 0.0),
        ("time_to_recover", AB, "a", None),
        ("time_to_recover", ABA, "a", 400 + 100 + 300 * 0.5 / 0.75),
        ("plasticity", AB, "b", 1.75),
        ("plasticity", AB, "a", 4.0),
    ],
)
def test_by_hand(name: str, cell: History, corpus: str, value: float | None):
    assert getattr(forgetting, name)(cell, corpus) == (None if value is None else pytest.approx(value))


def test_the_matrix_of_losses_has_the_untrained_model_first():
    assert [ABA.losses("a").tolist(), ABA.losses("b").tolist()] == [[8, 4, 5.5, 3.75], [8, 6.5, 4.75, 5.25]]


def branch(values: list[float], tokens: list[int] = TOKENS) -> History:
    return History([A, THEN_B], branches={"a": curve({"a": 1.0}, values, [5, 5, 5], tokens)})


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (branch([5.5, 4.5, 3.5], [0, 20, 100]), 1 - (20 + 80 * 0.5) / 400),  # back at 4 halfway from 4.5 to 3.5
        (branch([5.5, 5, 4.0]), 0.0),  # as long as at first
        (branch([5.5, 5, 4.2], [0, 20, 100]), None),  # too short to come back
        (branch([4.0, 3.9, 3.8], [0, 20, 100]), 1.0),  # nothing to relearn
        (AB, None),
    ],
)
def test_savings_are_the_share_of_tokens_that_relearning_saves(cell: History, value: float | None):
    assert forgetting.relearning_savings(cell, "a") == (None if value is None else pytest.approx(value))
    assert forgetting.relearning_savings(cell, "b") is None


def test_a_corpus_only_watched_has_a_loss_and_nothing_else():
    cell = History([curve({"a": 1.0}, [8, 5, 4], [8, 7, 6.5])])
    assert forgetting.final_loss(cell, "b") == 6.5
    for name in ("learned_loss", "forgetting", "forgetting_best", "forgetting_area", "plasticity", "stability_gap"):
        assert getattr(forgetting, name)(cell, "b") is None
    for name in ("half_forgetting_tokens", "compute_equivalent", "time_to_recover", "forgetting_exponent"):
        assert getattr(forgetting, name)(cell, "b") is None


def test_a_stage_without_steps_has_no_area_and_still_forgets():
    derived = curve({"b": 1.0}, [4.75], [5.0], [0])
    cell = History([A, derived])
    assert forgetting.forgetting(cell, "a") == 0.75
    assert forgetting.forgetting_area(cell, "a") is None
    assert forgetting.plasticity(cell, "b") == 1.5  # from where the stage before it had ended
    assert forgetting.stability_gap(cell, "a") == 0.0
    assert forgetting.forgetting_exponent(cell, "a") is None


def long_curve(forgotten: np.ndarray, tokens: np.ndarray) -> History:
    own = StageCurve({"a": 1.0}, 400, 1.0, {"loss/a": np.array([[0, 8.0], [400, 4.0]])})
    later = StageCurve({"b": 1.0}, int(tokens[-1]), 1.0, {"loss/a": np.stack([tokens, 4 + forgotten], axis=1)})
    return History([own, later])


def test_the_exponent_is_that_of_what_is_forgotten_since_the_switch():
    tokens = np.array([0.0, *np.geomspace(1, 1e5, 15)])
    noise = 0.01 * np.random.default_rng(0).normal(size=15)
    cell = long_curve(0.02 * ((1 + tokens / 50) ** 0.5 - 1) + [0, *noise], tokens)
    exponent, error = (getattr(forgetting, f"forgetting_exponent{end}")(cell, "a") for end in ("", "_error"))
    assert abs(exponent - 0.5) < 3 * error < 0.5
    assert forgetting.forgetting_fit_r2(cell, "a") > 0.95


def test_a_rise_with_a_recovery_has_no_exponent():
    tokens = np.linspace(0, 1000, 16)
    cell = long_curve(np.where(tokens > 0, 0.5 + np.exp(-tokens / 300), 0.0), tokens)
    assert forgetting.forgetting_exponent(cell, "a") is forgetting.forgetting_exponent_error(cell, "a") is None
    assert forgetting.forgetting_fit_r2(cell, "a") < 0.6


losses = st.lists(st.floats(1, 9), min_size=2, max_size=8)


@given(first=losses, later=losses)
@example(first=[3, 2, 3, 1], later=[1, 2])  # it touches the level in a point
def test_on_any_curve_as_on_a_fine_grid(first: list[float], later: list[float]):
    """The reference walks each straight line in small steps."""
    own, after = ([list(pair) for pair in enumerate(values)] for values in (first, later))
    stages = [
        StageCurve({"a": 1.0}, len(first) - 1, 1.0, {"loss/a": np.array(own, float)}),
        StageCurve({"b": 1.0}, len(later) - 1, 1.0, {"loss/a": np.array(after, float)}),
    ]
    cell, learned, last = History(stages), first[-1], later[-1]
    grid = np.linspace(0, len(later) - 1, 2520 * (len(later) - 1) + 1)  # with every point of the curve on it
    lost = np.interp(grid, np.arange(len(later)), later) - learned
    assert forgetting.forgetting_area(cell, "a") == pytest.approx(lost.mean(), abs=1e-2)
    assert forgetting.stability_gap(cell, "a") == pytest.approx(lost.max() - lost[-1], abs=1e-2)
    half = forgetting.half_forgetting_tokens(cell, "a")
    assert (half is None) == (last <= learned)
    if half is not None:
        assert half == pytest.approx(grid[np.argmax(lost >= lost[-1] / 2 - 1e-9)], abs=1e-2)
    grid = np.linspace(0, len(first) - 1, 2520 * (len(first) - 1) + 1)
    level = np.interp(grid, np.arange(len(first)), first)
    expected = 1 - grid[np.argmax(level <= last + 1e-9)] / (len(first) - 1) if last > learned else 0.0
    assert forgetting.compute_equivalent(cell, "a") == pytest.approx(expected, abs=1e-2)
