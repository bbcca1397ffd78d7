"""The names under which metrics are kept, their two units, and what a cell cost."""

from dataclasses import replace

import numpy as np
import pytest

from lethe.evaluation.history import History, StageCurve
from lethe.evaluation.metrics import CELL_LOSSES, CELL_METRICS, CORPUS_LOSSES, metrics


def stage(mixture: dict[str, float], a: list[float], b: list[float]) -> StageCurve:
    """Marks at 0, 100 and 400 tokens. A token of a has 4 bytes, one of b has 2."""
    points = {f"loss/{x}": np.array([[0, 100, 400], values]).T for x, values in (("a", a), ("b", b))}
    points |= {f"bpb/{x}": points[f"loss/{x}"] / [1, np.log(2) * n] for x, n in (("a", 4), ("b", 2))}
    return StageCurve(mixture, 400, 2.0, points)


A = stage({"a": 1.0}, [8, 5, 4], [8, 7, 6.5])
B = stage({"b": 1.0}, [8, 7.5, 7], [8, 5, 4.5])
THEN_B = stage({"a": 0.1, "b": 0.9}, [4, 6, 5.5], [6.5, 5, 4.75])
BOTH = stage({"a": 0.5, "b": 0.5}, [8, 5, 4.25], [8, 6, 4.5])
VALUES = metrics(History([A, THEN_B], [A, B, BOTH]), ["a", "b"])


def test_every_loss_is_there_in_bits_per_byte_too():
    in_bits = [name for name in VALUES if "_bpb" in name]
    assert len(in_bits) == len(CORPUS_LOSSES) * 2 + len(CELL_LOSSES)
    for name in in_bits:
        nats, bytes_ = VALUES[name.replace("_bpb", "")], {"a": 4, "b": 2}.get(name[-1])
        if bytes_ and "/" in name:
            assert VALUES[name] == (None if nats is None else pytest.approx(nats / np.log(2) / bytes_))
    assert VALUES["average_loss_bpb"] == pytest.approx((5.5 / 4 + 4.75 / 2) / 2 / np.log(2))
    assert VALUES["backward_transfer_bpb"] == pytest.approx(-1.5 / 4 / np.log(2))
    assert VALUES["forward_transfer_bpb"] == pytest.approx(1.5 / 2 / np.log(2))


def test_the_names_of_the_design_are_all_there():
    per_corpus = (
        "final_loss learned_loss forgetting fraction_lost forgetting_area half_forgetting_tokens stability_gap "
    )
    per_corpus += "compute_equivalent time_to_recover relearning_savings intransigence gap_to_combined plasticity"
    per_cell = "backward_transfer forward_transfer average_loss tokens_per_second train_seconds mfu tokens"
    assert {f"{name}/{x}" for name in per_corpus.split() for x in "ab"} | set(per_cell.split()) <= VALUES.keys()
    assert VALUES["stability_gap/a"] == 0.5
    assert VALUES["relearning_savings/a"] is None


@pytest.mark.parametrize(("name", "value"), [("tokens", 800), ("train_seconds", 4.0), ("tokens_per_second", 200.0)])
def test_costs_by_hand(name: str, value: float):
    assert VALUES[name] == value


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
