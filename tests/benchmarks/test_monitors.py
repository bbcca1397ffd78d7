"""The contest of monitors, on made-up curves whose correlations are known, against scipy and arithmetic by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from benchmarks.monitors import Points, bootstrap, calibration, contest, leave_one_out, main, partial, read, spearman
from grid.results import CELL_CURVE
from lethe.config import UserError

ARMS, SEEDS, MARKS = ("none", "ewc", "l2", "distill"), (0, 1, 2), (0, 1, 10, 50, 100)
FINAL = {"none": 2.0, "ewc": 1.0, "l2": 0.7, "distill": 0.2}


def lost(arm: str, seed: int, share: float) -> float:
    return FINAL[arm] * (1 + seed / 10) * share**0.5


def write(folder: Path, monitors: bool = True, arms: tuple[str, ...] = ARMS, mixtures: tuple[str, ...] = ()) -> Path:
    """A run whose kl_self is 2 F + 0.1, whose kl/cars falls with F, and whose CKA falls as F rises.

    `mixtures` are arms that have KL alone.
    """
    rows, results = [], []
    for arm in arms:
        for seed in SEEDS:
            cell = f"ab-tiny-{arm}-{seed}"
            results.append({"cell": cell, "baseline": "sequential_ab", "model": "tiny", "interleaving_ratio": 0.0})
            results[-1] |= {"intervention": arm, "seed": seed, "status": "finished"}
            results[-1] |= {"forgetting/food": 1.0, "forgetting/cars": None}
            for name in ("loss/food", "loss/cars"):
                rows += [(cell, 0, 0, 0, 0.0, name, 8.0), (cell, 0, 9, 900, 0.0, name, 4.0)]
            for mark in MARKS:
                f = lost(arm, seed, mark / 100)
                values = {"loss/food": 4 + f, "loss/cars": 4 - mark / 100}
                if monitors:
                    values |= {"kl_self": 2 * f + 0.1, "kl/cars": 5 - f}
                if monitors and arm not in mixtures:
                    values |= {"weight_distance": mark / 7 + seed, "cka_self/1": 1 - f / 9, "cka/cars/1": 1 - f / 8}
                rows += [(cell, 1, mark, 900 + mark, 0.0, name, value) for name, value in values.items()]
    folder.mkdir(exist_ok=True)
    pq.write_table(
        pa.table([list(column) for column in zip(*rows, strict=True)], schema=CELL_CURVE), folder / "curves.parquet"
    )
    pq.write_table(pa.Table.from_pylist(results), folder / "results.parquet")
    return folder


def test_of_a_run_it_prints_what_was_put_into_it(tmp_path, capsys):
    assert main([str(write(tmp_path / "run"))]) == 0
    *shown, last = capsys.readouterr().out.splitlines()
    assert shown[0] == "sequential_ab tiny stage 2: 4 arms, 3 seeds, 48 points"
    found = json.loads(last)["sequential_ab tiny stage 2"]
    monitors = found["monitors"]
    assert monitors.keys() == {
        *("kl_self", "kl/B", "weight_distance", "tokens", "gain on B", "1 - cka_self/1", "1 - cka/B/1"),
        "forgetting so far",
    }
    for name in ("kl_self", "1 - cka_self/1", "1 - cka/B/1"):
        for column in ("pooled", "partial", "ends"):
            assert monitors[name][column] == pytest.approx([1, 1, 1])
        assert monitors[name]["without one"] == pytest.approx([1, 1])
    assert monitors["kl/B"]["pooled"] == pytest.approx([-1, -1, -1])
    assert "partial" not in monitors["tokens"]
    assert monitors["tokens"]["ends"] == [None] * 3  # all ends have the same
    fit = found["calibration"]
    assert (fit["slope"], fit["intercept"]) == (pytest.approx(0.5), pytest.approx(-0.05))
    errors = fit["mean absolute error"]
    moved = [lost(arm, seed, mark / 100) for arm in ARMS for seed in SEEDS for mark in MARKS[1:]]
    assert errors["kl_self as it is"][0] == pytest.approx(np.mean(moved) + 0.1)
    for way in ("a line through other seeds", "a line through other arms"):
        assert errors[way] == pytest.approx([0, 0, 0], abs=1e-9)


def test_the_points_are_the_marks_of_the_run(tmp_path):
    points = read(write(tmp_path / "run"))["sequential_ab tiny stage 2"]
    expected = {
        (f"r0 {arm}", seed, mark): lost(arm, seed, mark / 100) for arm in ARMS for seed in SEEDS for mark in MARKS
    }
    found = zip(points.arm, points.seed, points.values["tokens"], points.forgetting, strict=True)
    assert {(arm, seed, tokens): f for arm, seed, tokens, f in found} == pytest.approx(expected)
    assert points.values["gain on B"] == pytest.approx(points.share)
    # Within 12 %: mark 10, at which forgetting has the order of the end.
    assert contest(points)["monitors"]["forgetting so far"]["early"][0] == pytest.approx(1)


@pytest.mark.parametrize("mixture", ARMS[:2])
def test_a_monitor_that_an_arm_does_not_have_is_judged_on_the_others(tmp_path, mixture, monkeypatch):
    monkeypatch.setattr("benchmarks.monitors.RESAMPLES", 50)
    others = tuple(arm for arm in ARMS if arm != mixture)
    whole, part, bare = (
        contest(next(iter(read(write(tmp_path / name, arms=arms, mixtures=mixtures)).values())))["monitors"]
        for name, arms, mixtures in (("whole", ARMS, ()), ("part", ARMS, (mixture,)), ("bare", others, ()))
    )
    assert part.keys() == whole.keys()
    for name in ("weight_distance", "1 - cka_self/1", "1 - cka/B/1"):
        assert part[name] == bare[name]
    assert part["kl_self"]["pooled"] == whole["kl_self"]["pooled"]
    assert part["kl_self"]["partial"] == bare["kl_self"]["partial"]  # which needs the weight distance


def test_where_no_arm_has_a_geometry_nothing_is_taken_out(tmp_path):
    (points,) = read(write(tmp_path / "run", mixtures=ARMS)).values()
    found = contest(points)["monitors"]
    assert found["kl_self"]["pooled"] == pytest.approx([1, 1, 1])
    assert "partial" not in found["kl_self"] and "weight_distance" not in found


def test_too_few_arms_are_left_out(tmp_path, capsys):
    assert main([str(write(tmp_path / "run", arms=ARMS[:2]))]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "sequential_ab tiny stage 2: left out, 2 arms; needed: 3",
        "",
        "{}",
    ]


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UserError, match="RUN_FOLDER: found no results.parquet in .*; allowed: the runs/NAME"):
        main([str(tmp_path)])
    with pytest.raises(
        UserError, match=re.escape("curves.parquet: found no kl_self; allowed: runs with evaluation.moni")
    ):
        main([str(write(tmp_path / "run", monitors=False))])


@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_those_of_scipy_and_of_the_precision_matrix(seed):
    rng = np.random.default_rng(seed)
    x, y, a, b = rng.integers(0, 12, (4, 40)).astype(float)  # with ties
    y += x
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    precision = np.linalg.inv(spearmanr(np.stack([x, y, a, b], axis=1)).statistic)
    expected = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    assert partial(x, y, a, b) == pytest.approx(expected)


def test_a_correlation_with_what_is_constant_or_explained_is_not_a_number():
    x = np.arange(9.0)
    assert np.isnan(spearman(x, np.ones(9)))
    assert np.isnan(partial(3 * x, x**2, x))


def test_a_confounder_is_taken_out():
    """x and y go with tokens and with nothing else of each other."""
    rng = np.random.default_rng(0)
    tokens = np.repeat(np.arange(40.0), 10)
    x, y = tokens + rng.normal(size=(2, 400))
    assert spearman(x, y) > 0.9
    assert abs(partial(x, y, tokens)) < 0.15


def test_the_bootstrap_draws_whole_arms():
    """Of two arms, one all 0 and one all 1, only three means can come: those of none, one and two of the second."""
    arms, values = np.repeat(["a", "b"], 50), np.repeat([0.0, 1.0], 50)
    assert bootstrap(arms, np.mean, values) == [0.5, 0, 1]
    one_each = bootstrap(np.arange(400), np.mean, np.tile([0.0, 1.0], 200))
    assert one_each[0] == 0.5
    assert one_each[2] - one_each[1] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)  # the normal interval of a share


def test_without_one_arm():
    arms = np.array(["a", "a", "b", "b", "c", "c"])
    x, y = np.array([0.0, 1, 2, 3, 9, 8]), np.array([0.0, 1, 2, 3, -9, -8])
    expected = [spearmanr(x[arms != arm], y[arms != arm]).statistic for arm in "abc"]
    assert leave_one_out(arms, x, y) == pytest.approx([min(expected), 1])


def test_calibration_is_judged_on_the_seed_that_the_line_has_not_seen():
    gauge, seed = np.array([0.0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 1])
    forgetting = np.where(seed == 0, gauge, 3 * gauge + 1)
    points = Points(np.array(["a"] * 6), seed, np.ones(6), forgetting, {"kl_self": gauge})
    errors = calibration(points)["mean absolute error"]
    # Each seed's line is off by |2 gauge + 1| on the other's.
    assert errors["a line through other seeds"][0] == pytest.approx(np.mean([1, 3, 5]))
    assert errors["kl_self as it is"][0] == pytest.approx(np.mean([0, 0, 0, 1, 3, 5]))
    assert "a line through other arms" not in errors
