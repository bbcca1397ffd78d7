"""Comparison at equal loss, against cases worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grid.matched import MATCHED, corpus_pairs, front, matched

# Forgetting against loss on B at two seeds: straight lines between these, at ratios 0, .05 and .25.
FAMILY = {0.0: [(2.0, 1.0), (2.1, 1.2)], 0.05: [(2.1, 0.4), (2.2, 0.4)], 0.25: [(2.3, 0.0), (2.5, 0.1)]}


def cells(label: str, ratio: float, points: list[tuple[float, float]], **fields) -> list[dict]:
    kind = "none" if label == "none" else "l2_sp"
    point = {
        "baseline": "ab",
        "model": "tiny",
        "interleaving_ratio": ratio,
        "intervention": label,
        "status": "finished",
    }
    point |= {"intervention_kind": kind, "learned_loss/b": 2.0, "learned_loss/a": 4.0, "forgetting/b": None} | fields
    return [
        point | {"seed": seed, "final_loss/b": loss, "final_loss/a": 4 + lost, "forgetting/a": lost}
        for seed, (loss, lost) in enumerate(points)
    ]


def compare(*rows: list[dict]) -> pd.DataFrame:
    family = [cell for ratio, points in FAMILY.items() for cell in cells("none", ratio, points)]
    return matched(pd.DataFrame([*family, *(cell for arm in rows for cell in arm)]))


def test_an_arm_within_the_family_is_compared_with_the_line_at_its_loss():
    table = compare(cells("pull", 0.0, [(2.05, 0.5), (2.35, 0.5)]))
    (row,) = table.to_dict("records")
    differences = [0.5 - 0.7, 0.5 - (0.4 + 0.1) / 2]
    test = stats.ttest_1samp(differences, 0).confidence_interval()
    assert row["mean"] == pytest.approx(np.mean(differences))
    assert (row["mean"] - row["half"], row["mean"] + row["half"]) == pytest.approx(tuple(test))
    assert (row["earlier"], row["later"], row["n"], row["below"], row["above"]) == ("a", "b", 2, 0, 0)


def test_beyond_the_family_its_nearest_end_bounds_the_difference():
    table = compare(cells("cheap", 0.0, [(1.9, 0.9), (2.0, 0.9)]), cells("dear", 0.1, [(2.4, 0.2), (2.4, 0.2)]))
    cheap, dear = table.to_dict("records")
    assert cheap["mean"] == pytest.approx(((0.9 - 1.0) + (0.9 - 1.2)) / 2)
    assert (cheap["below"], cheap["above"]) == (2, 0)
    assert dear["mean"] == pytest.approx(((0.2 - 0.0) + (0.2 - 0.2)) / 2)
    assert (dear["below"], dear["above"]) == (0, 1)


def test_a_ratio_that_is_worse_in_both_does_not_bend_the_family_back():
    points = np.array([(2.0, 1.0), (1.9, 0.8), (2.1, 0.9), (2.3, 0.0)])
    assert front(points).tolist() == [[1.9, 0.8], [2.3, 0.0]]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_point_beats(points):
    kept = {tuple(point) for point in front(np.array(points, dtype=float)).tolist()}
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert kept == set(points) - beaten


def test_a_seed_without_the_whole_family_or_unfinished_does_not_count():
    arm = cells("pull", 0.0, [(2.05, 0.5), (2.35, 0.5), (2.2, 0.5)])
    arm[0]["status"] = "failed"
    (row,) = compare(arm).to_dict("records")
    assert row["n"] == 1 and math.isnan(row["half"])
    assert row["mean"] == pytest.approx(0.25)


def test_there_is_nothing_to_compare_with_at_one_ratio_or_with_nothing_finished():
    rows = [*cells("none", 0.0, FAMILY[0.0]), *cells("pull", 0.0, [(2.05, 0.5), (2.35, 0.5)])]
    for table in (matched(pd.DataFrame(rows)), matched(pd.DataFrame(rows).assign(status="failed"))):
        assert table.empty and [*table.columns] == MATCHED


def test_pairs_are_of_what_was_forgotten_and_what_came_last():
    frame = pd.DataFrame(cells("none", 0.0, FAMILY[0.0]))
    assert corpus_pairs(frame) == [("a", "b")]
    assert corpus_pairs(frame.assign(**{"forgetting/a": None})) == []
