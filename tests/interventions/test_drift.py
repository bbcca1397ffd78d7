"""The gauge and the trigger: plain training until it has drifted too far, then again from the model of A, cut."""

from typing import Any

import pytest
import torch

from lethe.config import UserError
from lethe.interventions.derived import gauge_rows
from lethe.interventions.watch import ROWS
from lethe.model.fractured import Fractured
from lethe.training.loop import Training, run_stage
from lethe.worker import Worker

FIRES: dict[str, Any] = {"rank": 4, "trigger": "drift", "threshold": 4.5}


def record(lab, stage) -> dict[str, Any]:
    found = lab.store.record(lab.run(stage).key)
    assert found is not None
    return found


def curve(lab, stage, name: str) -> dict[int, float]:
    """Value by step."""
    job = lab.run(stage)
    rows = lab.store.curve(job.key, job.measured).to_pylist()
    return {row["step"]: row["value"] for row in rows if row["name"] == name}


def test_a_watched_stage_is_plain_training_and_its_drift_is_kl_on_the_sampled_text(lab):
    stage = lab.after_food("watch", every=0.25)
    assert lab.same(lab.weights(stage), lab.weights(lab.after_food()))
    readings = curve(lab, stage, "drift")
    assert list(readings) == [10, 20, 30, 40]
    assert record(lab, stage)["intervention"] == {
        "readings": [list(reading) for reading in readings.items()],
        "highest": max(readings.values()),
    }
    ids = torch.from_numpy(gauge_rows(lab.switch(stage), ROWS))[:, :-1]
    with torch.no_grad():
        before, after = (lab.model(each)(ids).double().log_softmax(-1) for each in (lab.food, stage))
    kl = (before.exp() * (before - after)).sum(-1).mean().item()
    assert readings[40] == pytest.approx(kl, rel=1e-4)


def test_the_control_is_more_of_what_the_parent_trained_on(lab):
    (control,) = lab.after_food("fracture", **FIRES).reads
    assert (control.parent, control.mixture) == (lab.food, {"food": 1})
    assert control.tokens == lab.food.tokens
    assert control.intervention.kind == "watch"
    with pytest.raises(UserError, match="'fracture' with trigger drift; allowed without a parent: none"):
        lab.stage("fracture", **FIRES)


def test_one_that_never_fires_is_plain_training(lab):
    stage, plain = lab.after_food("fracture", **FIRES | {"threshold": 1e9}), lab.after_food()
    assert lab.same(lab.weights(stage), lab.weights(plain))
    assert not isinstance(lab.model(stage), Fractured)
    assert curve(lab, stage, "loss/food") == curve(lab, plain, "loss/food")
    assert record(lab, stage)["spent_steps"] == 0
    assert record(lab, stage)["intervention"]["cut"] is None


def test_one_that_fires_is_the_stage_cut_at_its_start_and_what_was_spent_stands_apart(lab):
    stage, cut = lab.after_food("fracture", **FIRES), lab.after_food("fracture", rank=4)
    assert lab.same(lab.weights(stage), lab.weights(cut))
    assert curve(lab, stage, "loss/food") == curve(lab, cut, "loss/food")
    kept = record(lab, stage)
    readings, spent = dict(kept["intervention"]["readings"]), kept["spent_steps"]
    control = record(lab, stage.reads[0])["intervention"]["highest"]
    assert kept["intervention"]["threshold"] == 4.5 * control
    assert kept["intervention"]["cut"] == spent == max(readings)
    assert 1 < spent < 40
    assert readings[spent] > 4.5 * control >= max(value for step, value in readings.items() if step < spent)
    assert curve(lab, stage, "spent/drift") == readings
    assert not curve(lab, stage, "drift")
    plain = curve(lab, lab.after_food(), "loss/food")
    whole = curve(lab, stage, "spent/loss/food")
    assert whole == {step: value for step, value in plain.items() if step < spent}


def test_a_stage_after_it_goes_on_from_what_it_has_become(lab):
    for threshold in (4.5, 1e9):
        stage = lab.after_food("fracture", **FIRES | {"threshold": threshold})
        lab.run(stage)
        third = lab.stage("fracture", {"parent": stage, "tokens": 4 * 256}, **FIRES | {"threshold": 1e-9})
        assert curve(lab, third, "loss/automotive")[0] == curve(lab, stage, "loss/automotive")[40]
        assert isinstance(lab.model(third), Fractured)
        assert third.reads[0].mixture == {"automotive": 1}


class KilledError(Exception):
    pass


@pytest.mark.parametrize("steps", [1, 8, 11, 12, 14, 45])
def test_killed_before_at_and_after_the_roll_back_it_ends_with_the_same_bits(lab, own_lab, steps, monkeypatch):
    """It fires after 12 steps, and writes a checkpoint every 2."""
    stage, done = lab.after_food("fracture", **FIRES), 0
    assert record(lab, stage)["spent_steps"] == 12
    own_lab.run(stage.reads[0])
    train_step = Training.train_step

    def killed(self):
        nonlocal done
        if done == steps:
            raise KilledError
        done += 1
        return train_step(self)

    monkeypatch.setattr(Training, "train_step", killed)
    job = own_lab.job(stage)
    object.__setattr__(job, "checkpoint_every", 2)
    with pytest.raises(KilledError):
        run_stage(job, Worker())
    monkeypatch.setattr(Training, "train_step", train_step)
    training = Training(job, Worker())
    assert 0 <= steps - (training.state.spent + training.state.step) <= 2
    list(training.run())
    assert lab.same(own_lab.weights(stage), lab.weights(stage))
    assert curve(own_lab, stage, "spent/loss/food") == curve(lab, stage, "spent/loss/food")
    assert record(own_lab, stage)["intervention"] == record(lab, stage)["intervention"]
