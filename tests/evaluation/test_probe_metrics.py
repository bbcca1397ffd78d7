"""Metrics of probes from curves by hand."""

import numpy as np
import pytest

from lethe.evaluation.history import History, StageCurve
from lethe.evaluation.probe_metrics import (
    METRICS,
    probe_accuracy_lost,
    probe_counts,
    probe_metrics,
)

GROUP = "entity/memorised"


def stage(corpus: str, accuracy: list[float], margin: list[float], facts: int = 10, asked: str = "a") -> StageCurve:
    values = {"probe_facts": [facts] * 2, "probe_accuracy": accuracy, "probe_margin": margin}
    values["probe_accuracy_pmi"] = [one / 2 for one in accuracy]
    return StageCurve(
        {corpus: 1.0}, 400, 1.0, {f"{n}/{asked}/{GROUP}": np.array([[0, 400], v]).T for n, v in values.items()}
    )


A, B = stage("a", [0.2, 0.9], [-1, 2]), stage("b", [0.9, 0.3], [2, -0.5])


def test_by_hand():
    found = probe_metrics(History([A, B]), ["a", "b"])
    expected = {
        "probe_facts": 10,
        "probe_accuracy": 0.3,
        "probe_accuracy_learned": 0.9,
        "probe_accuracy_lost": 0.6,
        "probe_accuracy_pmi": 0.15,
        "probe_accuracy_pmi_learned": 0.45,
        "probe_margin": -0.5,
        "probe_margin_learned": 2,
        "probe_margin_lost": 2.5,
        "probe_counts": 1,
    }
    assert found == {f"{name}/a/{GROUP}": pytest.approx(value) for name, value in expected.items()}
    assert set(expected) == set(METRICS)


def test_what_was_not_known_cannot_be_lost():
    """Of 10 facts, chance is .25 with a standard error of .137, so .524 is where a type begins to count."""
    below, above = (History([stage("a", [0.2, end], [0, 1]), B]) for end in (0.523, 0.525))
    assert [probe_counts(history, "a", GROUP) for history in (below, above)] == [0, 1]
    assert probe_accuracy_lost(below, "a", GROUP) is None
    assert probe_accuracy_lost(above, "a", GROUP) == pytest.approx(0.225)


def test_what_is_neutral_was_learned_when_the_first_stage_ended():
    a, b, c = (
        stage(corpus, accuracy, [0, 1], asked="neutral")
        for corpus, accuracy in (("a", [0.2, 0.8]), ("b", [0.8, 0.9]), ("a", [0.9, 0.7]))
    )
    found = probe_metrics(History([a, b, c]), ["a", "b"])
    assert found[f"probe_accuracy_learned/neutral/{GROUP}"] == 0.8
    assert found[f"probe_accuracy_lost/neutral/{GROUP}"] == pytest.approx(0.1)
    assert found[f"probe_counts/neutral/{GROUP}"] == 1
    assert probe_accuracy_lost(History([a]), "neutral", GROUP) is None


def test_null_where_not_measured():
    assert probe_accuracy_lost(History([A]), "a", GROUP) is None  # no later stage
    never = probe_metrics(History([B]), ["a"])
    assert never[f"probe_accuracy/a/{GROUP}"] == 0.3
    for name in ("accuracy_learned", "accuracy_lost", "margin_lost", "counts"):
        assert never[f"probe_{name}/a/{GROUP}"] is None
    plain = StageCurve({"a": 1.0}, 400, 1.0, {"loss/a": np.array([[0, 8.0], [400, 4.0]])})
    assert probe_metrics(History([plain]), ["a"]) == {}
    mixed = History([plain, stage("b", [0.5, 0.5], [0, 0])])
    assert probe_accuracy_lost(mixed, "a", GROUP) is None
    assert probe_counts(mixed, "a", GROUP) is None
    assert probe_metrics(History([A, B]), ["b"]) == {}
