"""The figures as functions of the tables: what they draw against what the tables hold."""

import math

import numpy as np
import pandas as pd
import pytest
from report_runs import LEARNED, STAGE_TOKENS, curve, drifting_rows, grid_rows, many_rows
from scipy import stats

from grid.report import (
    cka_maps,
    drift_curves,
    forgetting_by_ratio,
    forgetting_of_arms,
    learning_against_forgetting,
    loss_curves,
    monitor_curves,
    probe_accuracies,
    relearning_curves,
)
from grid.report.labels import place
from grid.report.monitors import interval_over_arms, spearman


def traces(figure, **wanted) -> list:
    return [t for t in figure.data if all(getattr(t, name) == value for name, value in wanted.items())]


def half(values: list[float]) -> float:
    return stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return grid_rows()


@pytest.fixture(scope="module")
def curves(rows) -> pd.DataFrame:
    return pd.DataFrame([point for r in rows for point in curve(r)])


def test_forgetting_by_ratio_draws_every_seed_their_means_and_intervals(rows):
    figure = forgetting_by_ratio(pd.DataFrame(rows))
    nats, share = (t for t in traces(figure, mode="markers") if t.xaxis in ("x", "x2"))
    assert list(nats.x) == pytest.approx(np.sqrt([0, 0, 0.05, 0.05, 0.25, 0.25]))
    assert list(nats.y) == pytest.approx([r["forgetting/food"] for r in rows[:6]])
    assert list(share.y) == pytest.approx([100 * r["fraction_lost/food"] for r in rows[:6]])
    means = traces(figure, mode="lines+markers", xaxis="x")[0]
    assert list(means.y) == pytest.approx(np.array(nats.y).reshape(3, 2).mean(axis=1))
    assert list(means.error_y.array) == pytest.approx(
        [half(list(pair)) for pair in np.array(nats.y).reshape(3, 2)], rel=1e-4
    )
    assert len(traces(figure, mode="lines+markers")) == 4  # two orders, in nats and as a share
    assert list(figure.layout.xaxis.ticktext) == ["0 %", "5 %", "25 %"]


def test_a_share_that_is_not_known_has_no_panel(rows):
    figure = forgetting_by_ratio(pd.DataFrame(rows).drop(columns=["fraction_lost/food", "fraction_lost/automotive"]))
    assert {t.xaxis for t in traces(figure, mode="lines+markers")} == {"x", "x2"}  # an order each
    assert [axis.title.text for axis in figure.select_yaxes()] == ["forgetting, nats"] * 2


def test_arms_of_several_models_and_interventions_look_different(rows):
    kinds = ("none", "l2_sp")
    rows = [r | {"intervention": k, "intervention_kind": k, "model": m} for r in rows for k in kinds for m in "ab"]
    figure = forgetting_by_ratio(pd.DataFrame(rows))
    looks = {(t.line.color, t.line.dash) for t in traces(figure, mode="lines+markers", xaxis="x")}
    assert len(looks) == 4


def test_the_order_of_the_cells_does_not_matter_to_the_ratios(rows):
    figure = forgetting_by_ratio(pd.DataFrame(rows[:6][::-1]))
    assert list(traces(figure, mode="lines+markers", xaxis="x")[0].x) == pytest.approx(np.sqrt([0, 0.05, 0.25]))


def test_every_arm_has_its_row_the_least_forgetting_on_top():
    figure = forgetting_of_arms(pd.DataFrame(many_rows()))
    drawn = {t.y[0]: t.x[0] for t in traces(figure, xaxis="x")}
    assert len(drawn) == 23 and drawn["arm_3"] == pytest.approx(1.6 - 0.24 + 0.01)
    assert list(figure.layout.yaxis.categoryarray)[::-1] == sorted(drawn, key=drawn.get)


def test_loss_curves_mark_the_switch_and_the_intervals(rows, curves):
    figure = loss_curves(pd.DataFrame(rows), curves)
    assert {shape.x0 for shape in figure.layout.shapes} == {STAGE_TOKENS}
    assert len(figure.layout.shapes) == 4  # two orders, two corpora; combined never switches
    here = curves[(curves["name"] == "loss/food") & curves["cell"].isin([rows[0]["cell"], rows[1]["cell"]])]
    by_mark = here.groupby(["stage", "tokens"])["value"]
    mean = next(t for t in traces(figure, name="plain", xaxis="x") if t.fill is None)
    assert list(mean.y) == pytest.approx(by_mark.mean().to_list())
    band = next(t for t in traces(figure, name="plain", xaxis="x") if t.fill == "toself")
    wide = max(by_mark.apply(lambda values: half(list(values))).loc[0])
    low, high = np.array(band.y[:15]), np.array(band.y[:-16:-1])
    assert max(high - low) == pytest.approx(2 * wide, rel=1e-4)
    together = next(t for t in traces(figure, name="combined", xaxis="x") if t.fill is None)
    ends = [r["final_loss/food"] for r in rows if r["baseline"] == "combined"]
    assert together.y[-1] == pytest.approx(np.mean(ends))


def test_what_was_spent_is_thin_apart_from_the_curve_and_ends_in_a_cross():
    rows, points = drifting_rows()
    curves = pd.DataFrame(points)
    figure = loss_curves(pd.DataFrame(rows), curves)
    spent = traces(figure, name="cut", xaxis="x", mode="lines+markers")
    whole = next(t for t in traces(figure, name="cut", xaxis="x", mode="lines") if t.fill is None)
    assert [t.x[-1] - STAGE_TOKENS for t in spent] == [int(0.6 * STAGE_TOKENS), int(0.9 * STAGE_TOKENS)]
    for seed, trace in enumerate(spent):
        here = curves[(curves["cell"] == f"cut-{seed}") & (curves["name"] == "spent/loss/food")]
        assert list(trace.y) == pytest.approx([*here["value"], here["value"].iloc[-1]])
        assert trace.line.dash == "dot" and trace.line.width < whole.line.width
        assert trace.line.color == whole.line.color
        assert trace.marker.symbol == "x" and [bool(size) for size in trace.marker.size].index(True) == len(trace.x) - 1
    assert max(whole.x) == 2 * STAGE_TOKENS
    assert not traces(figure, name="watch", mode="lines+markers")


def test_drift_is_drawn_to_where_each_seed_passed_its_threshold():
    rows, points = drifting_rows()
    figure = drift_curves(pd.DataFrame(rows), pd.DataFrame(points))
    ends = [(t.x[-1], t.y[-1]) for t in traces(figure, name="cut", mode="lines+markers")]
    assert ends == [(int(0.6 * STAGE_TOKENS), pytest.approx(0.6)), (int(0.9 * STAGE_TOKENS), pytest.approx(0.9))]
    for name in ("watch", "late"):
        (mean,) = [t for t in traces(figure, name=name) if t.fill is None]
        assert list(mean.x)[-1] == STAGE_TOKENS and list(mean.y) == pytest.approx(np.arange(1, 11) / 10)
    (low,) = [t for t in traces(figure, name="threshold of cut") if t.fill is None]
    (shaded,) = [t for t in traces(figure, name="threshold of cut") if t.fill]
    assert list(low.y) == pytest.approx([0.65, 0.65]) and low.line.dash == "dash"
    assert (min(shaded.y), max(shaded.y)) == pytest.approx((0.5, 0.8))
    assert not traces(figure, name="threshold of watch")
    assert traces(figure, name="threshold of late")[0].y[0] < figure.layout.yaxis.range[1]


def test_a_threshold_far_above_all_readings_does_not_press_them_flat():
    rows, points = drifting_rows()
    curves = pd.DataFrame(points)
    curves.loc[curves["name"] == "drift_threshold", "value"] = 700.0
    assert drift_curves(pd.DataFrame(rows), curves).layout.yaxis.range[1] < 1.2


def test_each_later_stage_has_its_own_drift():
    rows, points = drifting_rows()
    curves = pd.DataFrame(points)
    again = curves[curves["stage"] == 1].assign(stage=2)
    again["tokens"] += STAGE_TOKENS
    figure = drift_curves(pd.DataFrame(rows), pd.concat([curves[curves["stage"] < 2], again], ignore_index=True))
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == ["sequential_ab, small, stage 2", "sequential_ab, small, stage 3"]
    first, second = (traces(figure, name="cut", mode="lines+markers", xaxis=x) for x in ("x", "x2"))
    assert [list(t.x) for t in first] == [list(t.x) for t in second]


def test_nothing_is_drawn_where_no_gauge_was_read(rows, curves):
    assert not drift_curves(pd.DataFrame(rows), curves).data


def test_of_many_arms_only_the_leading_ones_are_drawn_at_first():
    results = many_rows()
    figure = loss_curves(pd.DataFrame(results), pd.DataFrame([point for r in results for point in curve(r)]))
    drawn = {t.name for t in figure.data if t.visible is not False and t.visible != "legendonly"}
    assert {"plain", "interleaving 5 %", "interleaving 25 %", "combined"} <= drawn and len(drawn) <= 7
    assert len({t.name for t in figure.data}) == 24


def test_relearning_starts_at_what_was_left_and_comes_back(rows, curves):
    figure = relearning_curves(pd.DataFrame(rows), curves)
    again = next(t for t in traces(figure, name="plain", xaxis="x") if t.fill is None)
    assert list(again.x) == [0, 5_120, 10_240]
    assert again.y[0] == pytest.approx(np.mean([r["final_loss/food"] for r in rows[:2]]))
    assert again.y[-1] == pytest.approx(LEARNED["food"])
    first = next(t for t in traces(figure, name="the first time", xaxis="x") if t.fill is None)
    assert first.y[0] > 7.5 and max(first.x) <= 10_240


def test_learning_against_forgetting_is_paired_with_plain_training():
    rows = grid_rows(interventions=("none", "l2_sp"))
    for r in rows:
        r["final_loss/automotive"] += 0.1 * (r["intervention"] == "l2_sp") * (1 + r["seed"])
    figure = learning_against_forgetting(pd.DataFrame(rows))
    (point,) = traces(figure, mode="markers", name="l2_sp", xaxis="x")
    assert point.x[0] == pytest.approx(0.15)
    assert point.error_x.array[0] == pytest.approx(half([0.1, 0.2]))
    assert point.y[0] == pytest.approx(np.mean([r["forgetting/food"] for r in rows[:4] if r["intervention"] == "none"]))
    (family,) = traces(figure, mode="lines", name="interleaving", xaxis="x")
    assert len(family.x) == 3
    names = {annotation.text for annotation in figure.layout.annotations}
    assert {"plain", "l2_sp", "interleaving 5 %", "l2_sp + interleaving 25 %"} <= names


def test_a_name_says_what_its_arm_grows():
    rows, _ = drifting_rows()
    names = {annotation.text for annotation in learning_against_forgetting(pd.DataFrame(rows)).layout.annotations}
    assert {"cut +58 %", "watch", "plain", "interleaving 25 %"} <= names


def test_names_of_points_do_not_cover_each_other():
    random = np.random.default_rng(0)
    points = random.uniform(0, [590, 430], size=(23, 2))
    names = [f"an_arm_{i}" for i in range(23)]
    shifts = place(points, names, random.uniform(0, 20, size=(23, 2)), points[:2], 590, 430)
    middles = [(x + right, y - down) for (x, y), (right, down) in zip(points, shifts, strict=True)]
    for i, one in enumerate(middles):
        for other in middles[:i]:
            assert abs(one[0] - other[0]) > 40 or abs(one[1] - other[1]) >= 12.9


def test_monitors_are_drawn_against_forgetting(rows, curves):
    figure = monitor_curves(pd.DataFrame(rows), curves)
    titles = [annotation.text for annotation in figure.layout.annotations]
    row = titles.index("sequential_ab, small: kl_self")
    against_tokens, against_forgetting = (
        traces(figure, name="plain", xaxis=f"x{2 * row + i}" if 2 * row + i > 1 else "x")[0] for i in (1, 2)
    )
    assert max(against_tokens.x) == STAGE_TOKENS
    lost = np.mean([r["forgetting/food"] for r in rows[:2]])
    assert against_forgetting.x[-1] == pytest.approx(lost) and against_forgetting.y[-1] == pytest.approx(lost)


def test_spearman_and_its_draws_are_scipys():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 9, 60).astype(float), random.normal(size=60)
    assert spearman(x, y)[0] == pytest.approx(stats.spearmanr(x, y).statistic)
    counts = random.integers(0, 4, size=(3, 60)).astype(float)
    repeated = [stats.spearmanr(np.repeat(x, n), np.repeat(y, n)).statistic for n in counts.astype(int)]
    assert spearman(x, y, counts) == pytest.approx(repeated)
    assert np.isnan(spearman(np.ones(60), y)[0])


def test_the_interval_of_a_correlation_is_over_arms():
    arms = np.repeat(["a", "b", "c", "d"], 25)
    x = np.random.default_rng(0).normal(size=100)
    low, high = interval_over_arms(arms, x, x + np.random.default_rng(1).normal(size=100))
    assert low < stats.spearmanr(x, x + np.random.default_rng(1).normal(size=100)).statistic < high
    assert interval_over_arms(arms, x, x) == pytest.approx((1, 1))
    assert interval_over_arms(np.repeat(["a", "b"], 50), x, x) is None


def test_cka_is_a_map_of_layers_against_tokens(rows, curves):
    figure = cka_maps(pd.DataFrame(rows), curves)
    assert len(figure.data) == 8  # two orders, plain and 25 %, two texts
    grid = np.array(figure.data[0].z, dtype=float)
    assert grid.shape == (2, 15) and grid[:, 0] == pytest.approx(1) and grid[:, -1] == pytest.approx([0.9, 0.8])
    assert np.array(figure.data[1].z, dtype=float)[:, -1] == pytest.approx([0.8, 0.6])


def test_probes_that_were_not_known_are_grey_and_in_brackets(rows):
    figure = probe_accuracies(pd.DataFrame(rows))
    known, unknown = (traces(figure, name=f"at the end{more}", xaxis="x")[0] for more in ("", ", not known"))
    assert list(known.y) == ["number, memorised"] and known.x[0] == pytest.approx(52.5)
    assert known.error_x.array[0] == pytest.approx(100 * half([0.5, 0.55]))
    assert list(unknown.y) == ["(entity, memorised)"] and unknown.marker.color != known.marker.color
