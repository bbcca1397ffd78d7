"""A stage that is watched ends as one that is not, and its curve tells of the drift."""

from dataclasses import replace
from typing import Any

import pytest

from lethe.training.job import Job
from lethe.training.loop import run_stage
from lethe.worker import Worker


def watched(lab: Any, stage: Any) -> Job:
    job = lab.job(stage)
    return replace(job, evaluation=job.evaluation.model_copy(update={"monitors": True}))


@pytest.mark.parametrize(
    "kind", [{}, {"kind": "distill", "on": "self_samples"}, {"kind": "average", "share": 0.5}, {"kind": "partition"}]
)
def test_watching_changes_no_weight_and_is_measured_at_every_mark(own_lab: Any, kind: dict[str, Any]) -> None:
    stage = own_lab.after_food(**kind)
    plain = own_lab.weights(stage)
    job = watched(own_lab, stage)
    assert not job.is_finished  # another curve is wanted, so it is run again: to the same weights, or the store refuses
    run_stage(job, Worker(), lambda step, values: None)
    assert all((own_lab.weights(stage)[name] == weight).all() for name, weight in plain.items())
    curve = own_lab.store.curve(job.key, job.measured).to_pylist()
    marks = {row["step"] for row in curve}
    for name in ("kl_self", "kl/automotive", "weight_distance", "cka_self/1", "cka/automotive/2"):
        values = {row["step"]: row["value"] for row in curve if row["name"] == name}
        assert values.keys() == marks
        if stage.steps:
            assert values[0] == pytest.approx(1 if name.startswith("cka") else 0, abs=1e-5)
            assert values[max(marks)] != values[0]


def test_a_first_stage_has_nothing_to_be_compared_with(own_lab: Any) -> None:
    own_lab.run(own_lab.food)
    job = watched(own_lab, own_lab.food)
    run_stage(job, Worker(), lambda step, values: None)
    names = set(own_lab.store.curve(job.key, job.measured)["name"].to_pylist())
    assert names == {"loss/food", "loss/automotive", "bpb/food", "bpb/automotive", "train_loss"}
    assert job.measured == watched(own_lab, own_lab.after_food()).measured  # a grid has one for all its stages
