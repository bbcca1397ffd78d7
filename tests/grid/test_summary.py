"""Results over seeds against scipy and hand-made cases."""

import math

import pandas as pd
import pytest
from scipy import stats

from grid.summary import ARM, paired_differences, summary
from lethe.config import UserError

NONE = {0: 1.37, 1: 1.41, 2: 1.52}
REPLAY = {0: 0.66, 1: 0.75, 2: 0.82}
PULL = {0: 0.9, 2: 1.1}  # one seed is not there
COMBINED = {0: 5.33, 1: 5.26, 2: 5.26}


def arm(baseline: str, ratio: float | None, label: str | None, values: dict[int, float], **fields) -> list[dict]:
    kind = None if label is None else "none" if label == "plain" else label
    point = {"baseline": baseline, "model": "toy", "interleaving_ratio": ratio, "intervention": label}
    point |= {"intervention_kind": kind, "status": "finished"} | fields
    return [
        point | {"seed": seed, "forgetting/food": value, "final_loss/food": 4 + value} for seed, value in values.items()
    ]


ROWS = [
    *arm("sequential_ab", 0.0, "plain", NONE),
    *arm("sequential_ab", 0.05, "plain", REPLAY),
    *arm("sequential_ab", 0.0, "l2_sp", PULL),
    *arm("sequential_ab", 0.0, "l2_sp", {1: 99.0}, status="diverged"),
    *arm("sequential_ba", 0.05, "plain", REPLAY),
    *arm("combined", None, None, COMBINED),
]
for row in ROWS[-3:]:
    row["forgetting/food"] = None
RESULTS = pd.DataFrame(ROWS)


def line(table: pd.DataFrame, metric: str = "forgetting/food", **wanted) -> pd.Series:
    here = table[table["metric"] == metric]
    for name, value in wanted.items():
        here = here[here[name] == value]
    (found,) = here.to_dict("records")
    return pd.Series(found)


def test_an_arm_is_summed_up_over_its_finished_seeds():
    table = summary(RESULTS, ["forgetting/food", "final_loss/food"])
    found = line(table, baseline="sequential_ab", interleaving_ratio=0.0, intervention="plain")
    test = stats.ttest_1samp(list(NONE.values()), 0).confidence_interval()
    assert (found["mean"] - found["half"], found["mean"] + found["half"]) == pytest.approx(tuple(test))
    assert found["n"] == 3
    pulled = line(table, intervention="l2_sp")
    assert (pulled["mean"], pulled["n"]) == (pytest.approx(1.0), 2)
    assert set(table["metric"]) == {"forgetting/food", "final_loss/food"}


def test_what_is_undefined_for_an_arm_has_no_row():
    table = summary(RESULTS, ["forgetting/food", "final_loss/food"])
    assert table[table["baseline"] == "combined"]["metric"].to_list() == ["final_loss/food"]
    assert line(table, "final_loss/food", baseline="combined")["mean"] == pytest.approx(sum(COMBINED.values()) / 3 + 4)


def test_differences_are_from_plain_training_of_the_same_order_and_seed():
    table = paired_differences(RESULTS, ["forgetting/food"])
    replayed = line(table, interleaving_ratio=0.05)  # the other order has no plain arm, hence no row
    test = stats.ttest_rel(list(REPLAY.values()), list(NONE.values())).confidence_interval()
    assert (replayed["mean"] - replayed["half"], replayed["mean"] + replayed["half"]) == pytest.approx(tuple(test))
    pulled = line(table, intervention="l2_sp")
    assert pulled["mean"] == pytest.approx(((0.9 - 1.37) + (1.1 - 1.52)) / 2)
    assert pulled["n"] == 2
    assert len(table) == 2


def test_the_reference_can_be_any_arm():
    table = paired_differences(RESULTS, ["final_loss/food"], {"baseline": "combined"})
    assert len(table) == 4
    found = line(table, "final_loss/food", baseline="sequential_ba")
    assert found["mean"] == pytest.approx(sum(REPLAY[seed] - COMBINED[seed] for seed in REPLAY) / 3)
    from_replay = {"interleaving_ratio": 0.05, "intervention": "plain"}
    table = paired_differences(RESULTS, ["forgetting/food"], from_replay)
    assert line(table, intervention="plain")["mean"] == pytest.approx(sum(NONE[s] - REPLAY[s] for s in NONE) / 3)


def test_one_seed_has_a_difference_and_no_interval():
    table = paired_differences(RESULTS[RESULTS["seed"] == 0], ["forgetting/food"])
    found = line(table, interleaving_ratio=0.05)
    assert found["mean"] == pytest.approx(0.66 - 1.37)
    assert math.isnan(found["half"]) and found["n"] == 1


def test_a_reference_that_fits_several_arms_is_refused():
    with pytest.raises(UserError, match="which 2 arms have; allowed: what one has"):
        paired_differences(RESULTS, ["forgetting/food"], {"model": "toy", "baseline": "sequential_ab"})


def test_of_several_the_reference_is_the_one_at_the_arm_s_own_ratio():
    pulled = RESULTS[RESULTS["intervention"] == "l2_sp"].assign(interleaving_ratio=0.05)
    table = paired_differences(pd.concat([RESULTS, pulled]), ["forgetting/food"], {"intervention": "plain"})
    for ratio, plain in ((0.0, NONE), (0.05, REPLAY)):
        found = line(table, interleaving_ratio=ratio, intervention="l2_sp")
        assert found["mean"] == pytest.approx(sum(PULL[seed] - plain[seed] for seed in PULL) / 2)
    assert set(table["intervention"]) == {"l2_sp"}


def test_a_metric_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="metrics: found forgeting/food; allowed: columns of the results"):
        summary(RESULTS, ["forgeting/food"])


def test_nothing_finished_gives_empty_tables():
    nothing = RESULTS.assign(status="failed")
    for table in (summary(nothing, ["forgetting/food"]), paired_differences(nothing, ["forgetting/food"])):
        assert table.empty and [*table.columns] == [*ARM, "metric", "mean", "half", "n"]
