"""Metrics against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from lethe.evaluation.forgetting import CELL_METRICS, CORPUS_METRICS, History, StageCurve, metrics


def curve(mixture: dict[str, float], a: list[float], b: list[float], seconds: float = 2.0) -> StageCurve:
    """Marks at 0, 100, 400 tokens; bits per byte are half the nats."""
    tokens = [0, 100, 400]
    points = {}
    for corpus, values in (("a", a), ("b", b)):
        points[f"loss/{corpus}"] = np.array(list(zip(tokens, values, strict=True)), dtype=float)
        points[f"bpb/{corpus}"] = points[f"loss/{corpus}"] * [1, 0.5]
    return StageCurve(mixture, 400, seconds, points)


A = curve({"a": 1.0}, [8, 5, 4], [8, 7, 6.5])
B = curve({"b": 1.0}, [8, 7.5, 7], [8, 5, 4.5])
THEN_B = curve({"a": 0.1, "b": 0.9}, [4, 5, 5.5], [6.5, 5, 4.75])
BOTH = curve({"a": 0.5, "b": 0.5}, [8, 5, 4.25], [8, 6, 4.5])
AB = History([A, THEN_B], [A, B, BOTH])


@pytest.mark.parametrize(
    ("name", "corpus", "value"),
    [
        ("final_loss", "a", 5.5),
        ("learned_loss", "a", 4.0),
        ("learned_loss", "b", 4.75),
        ("forgetting", "a", 1.5),
        ("forgetting", "b", None),  # b was learned last: there is nothing later that could take it away
        ("forgetting_bpb", "a", 0.75),
        ("fraction_lost", "a", 1.5 / 3),  # of the gain 7 - 4
        ("forgetting_area", "a", (0.5 * 100 + 1.25 * 300) / 400),
        ("plasticity", "b", 1.75),
        ("intransigence", "b", 0.25),
        ("gap_to_combined", "a", 1.25),
        ("gap_to_combined", "b", 0.25),
    ],
)
def test_corpus_metrics_by_hand(name: str, corpus: str, value: float | None):
    assert CORPUS_METRICS[name](AB, corpus) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backward_transfer", -1.5),
        ("forward_transfer", 1.5),
        ("average_loss", 5.125),
        ("tokens", 800),
        ("train_seconds", 4.0),
        ("tokens_per_second", 200.0),
    ],
)
def test_cell_metrics_by_hand(name: str, value: float):
    assert CELL_METRICS[name](AB) == pytest.approx(value)


def on_device(stage: StageCurve, peak_flops: float | None) -> StageCurve:
    return replace(stage, flops_per_token=1000, peak_flops=peak_flops)


@pytest.mark.parametrize(
    ("peaks", "value"),
    [
        ((1e6, 1e6), 200 * 1000 / 1e6),  # tokens a second x FLOPs a token / peak
        ((1e6, 3e6), 800 * 1000 / (2 * 1e6 + 2 * 3e6)),  # each stage against its own devices
        ((1e6, None), None),
        ((None, None), None),
    ],
)
def test_utilisation_is_of_the_devices_peak_and_null_for_an_unknown_one(peaks, value):
    history = History([on_device(stage, peak) for stage, peak in zip((A, THEN_B), peaks, strict=True)])
    assert CELL_METRICS["mfu"](history) == (None if value is None else pytest.approx(value))


def test_a_stage_without_steps_adds_nothing_to_the_utilisation():
    derived = replace(on_device(THEN_B, 1e6), tokens=0, seconds=0.0)
    assert CELL_METRICS["mfu"](History([on_device(A, 1e6), derived])) == pytest.approx(0.2)
    assert CELL_METRICS["mfu"](History([derived])) is None


def test_what_needs_other_cells_is_null_without_them():
    alone = History([A, THEN_B])
    assert metrics(alone, ["a", "b"])["fraction_lost/a"] is None
    assert metrics(alone, ["a", "b"])["gap_to_combined/a"] is None
    assert metrics(alone, ["a", "b"])["forgetting/a"] == 1.5


def test_combined_forgets_nothing_and_is_its_own_reference():
    values = metrics(History([BOTH], [A, B, BOTH]), ["a", "b"])
    assert values["forgetting/a"] is values["forgetting/b"] is values["gap_to_combined/a"] is None
    assert values["average_loss"] == pytest.approx(4.375)
    assert values["backward_transfer"] is values["forward_transfer"] is None


def test_a_corpus_learned_again_is_measured_against_its_first_stage():
    again = curve({"a": 1.0}, [5.5, 4.5, 3.75], [4.75, 5, 5.25])
    values = metrics(History([A, THEN_B, again], [A, B]), ["a", "b"])
    assert values["forgetting/a"] == pytest.approx(-0.25)
    assert values["forgetting/b"] == pytest.approx(0.5)


def test_a_corpus_only_watched_has_a_loss_and_nothing_else():
    points = {"loss/a": A.points["loss/a"], "bpb/a": A.points["bpb/a"], "loss/c": A.points["loss/b"]}
    values = metrics(History([StageCurve({"a": 1.0}, 400, 1.0, points)]), ["a", "c"])
    assert values["final_loss/c"] == 6.5
    assert values["learned_loss/c"] is values["plasticity/c"] is values["forgetting/c"] is None
