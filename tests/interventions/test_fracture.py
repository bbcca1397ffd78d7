"""A fractured stage: nothing of A is lost at the cut or behind the gate, and the gate is what keeps it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lethe.config import UserError
from lethe.export import check_llama
from lethe.interventions import InterventionConfig
from lethe.interventions.fracture import Fracture, needed
from lethe.model.fractured import Fractured
from lethe.training.loop import Training, run_stage
from lethe.training.sampler import MixtureSampler
from lethe.worker import Worker

ARMS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "units": {"growth": "units", "embedding": "needed"},
    "no embedding": {"rank": 2, "embedding": "none"},
    "clone": {"growth": "clone", "parts": ["ffn", "bottom"], "prior": 0.5},
}


@pytest.mark.parametrize("arm", ARMS)
def test_at_the_cut_it_is_the_model_of_a(lab, arm):
    stage = lab.after_food("fracture", **ARMS[arm])
    for corpus in ("food", "automotive"):
        assert lab.loss(stage, corpus, where=0) == lab.loss(lab.food, corpus)
    lab.run(lab.food)
    at_the_cut = Training(lab.job(stage.altered(seed=5)), Worker()).model
    assert isinstance(at_the_cut, Fractured)
    assert at_the_cut.router is not None
    for scale in (-1, 0, 2):  # other gates
        at_the_cut.router.log_ratio.mul_(scale)
        assert torch.equal(lab.logits(at_the_cut, lab.held_out()), lab.logits(lab.model(lab.food), lab.held_out()))


@pytest.mark.parametrize("arm", ARMS)
def test_after_training_the_trunk_has_the_bits_of_its_parent_and_behind_the_gate_its_logits(lab, arm):
    model, parent = lab.model(lab.after_food("fracture", **ARMS[arm])), lab.model(lab.food)
    assert isinstance(model, Fractured)
    trunk = model.trunk.state_dict()
    assert trunk.keys() == parent.state_dict().keys()
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in parent.state_dict().items())
    ids, expected = lab.held_out("automotive"), lab.logits(parent, lab.held_out("automotive"))
    assert (lab.logits(model, ids) - expected).abs().max() > 0.5
    assert model.router is not None
    model.router.log_ratio.fill_(-1e9)
    assert torch.equal(lab.logits(model, ids), expected)


def test_in_training_no_bit_of_the_trunk_moves(lab):
    training = Training(lab.job(lab.after_food("fracture", {"seed": 7}, rank=4)), Worker())
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    for _ in range(3):
        training.train_step()
    moved = {name for name, tensor in training.model.state_dict().items() if not torch.equal(tensor, before[name])}
    grown = {name for name, _ in training.model.named_parameters() if not name.startswith("trunk.")}
    assert moved == grown


def test_rate_0_is_the_model_of_a(lab):
    frozen = lab.after_food("fracture", rate=0)
    assert torch.equal(lab.logits(lab.model(frozen), lab.held_out()), lab.logits(lab.model(lab.food), lab.held_out()))
    assert lab.loss(frozen, "food") == lab.loss(lab.food, "food")


def test_the_teacher_of_its_self_samples_is_its_own_trunk_and_stays_the_model_of_a(lab):
    training = Training(lab.job(lab.after_food("fracture", {"seed": 7}, rank=4, self_rows=0.5)), Worker())
    for _ in range(3):
        training.train_step()
    teacher = training.intervention.beside.teacher
    assert teacher is training.model.trunk
    assert torch.equal(lab.logits(teacher, lab.held_out()), lab.logits(lab.model(lab.food), lab.held_out()))


def test_without_the_router_it_forgets(lab):
    """So it is the router that keeps A; and without one A's counts are not asked for."""
    routed, open_gate = lab.after_food("fracture"), lab.after_food("fracture", router="none")
    assert lab.loss(open_gate, "food") - lab.loss(routed, "food") > 0.5
    assert lab.loss(routed, "food") - lab.loss(lab.food, "food") < 0.3
    assert lab.loss(routed, "automotive") < lab.loss(lab.after_food(), "automotive") + 0.3
    assert lab.loss(open_gate, "automotive") < lab.loss(lab.after_food(), "automotive") + 0.3
    assert Fracture.cost(Fracture.Parameters()).needs == "statistics"
    assert Fracture.cost(Fracture.Parameters(router="none")).needs == "nothing"


def test_its_log_ratio_is_of_what_the_stages_trained_on(lab):
    stage = lab.after_food("fracture", {"mixture": {"automotive": 0.75, "food": 0.25}})
    model = lab.model(stage)
    counts = [MixtureSampler(each, lab.data).unigram_counts() + 0.5 for each in (lab.food, stage)]
    a, b = (count / count.sum() for count in counts)
    np.testing.assert_allclose(model.router.log_ratio.numpy(), np.log(b / a), rtol=1e-5)


def test_what_it_saves_is_what_grew_and_the_ratios(lab):
    stage = lab.after_food("fracture", **ARMS["units"])
    saved = lab.store.weights(lab.run(stage).key)
    grown = {f"parts.blocks_{layer}_ffn.{part}" for layer in range(2) for part in ("gate_up", "down")}
    assert saved.keys() == grown | {"embedding.delta", "embedding.rows", "router.log_ratio"}


@pytest.mark.parametrize("arm", ARMS)
def test_loaded_it_gives_the_logits_it_ended_with(lab, own_lab, arm):
    own_lab.run(own_lab.food)
    stage = own_lab.after_food("fracture", {"tokens": 6 * 256}, **ARMS[arm])
    training = Training(own_lab.job(stage), Worker())
    list(training.run())
    for corpus in ("food", "automotive"):
        ids = own_lab.held_out(corpus)
        assert torch.equal(lab.logits(own_lab.model(stage), ids), lab.logits(training.model, ids))


@pytest.mark.parametrize(
    "growth",
    [{}, {"growth": "units", "width": 0.5}, {"rank": 3, "embedding": "none"}, {"growth": "clone"}, ARMS["clone"]],
)
def test_its_growth_is_that_of_the_weights(lab, growth):
    stage = lab.after_food("fracture", **growth)
    planned = stage.intervention.growth(stage.model, lab.data.vocab_size)
    before = sum(p.numel() for p in lab.model(lab.food).parameters())
    assert sum(p.numel() for p in lab.model(stage).parameters()) == before + planned.weights
    assert planned.frozen


def test_the_needed_rows_are_the_fewest_that_make_99_percent(lab):
    counts = np.array([50, 0, 1, 900, 40, 9])
    assert needed(counts).tolist() == [0, 3, 4]
    assert needed(np.array([1, 98, 1])).tolist() == [0, 1]
    model = lab.model(lab.after_food("fracture", **ARMS["units"]))
    own = MixtureSampler(lab.after_food(), lab.data).unigram_counts()
    rows = model.embedding.rows.numpy()
    assert own[rows].sum() >= 0.99 * own.sum() > own[rows].sum() - own[rows].min()
    assert len(rows) < len(own)
    assert model.embedding.delta.shape == (len(rows), 32)


def test_a_plain_stage_after_it_trains_and_saves_all_of_it(lab):
    fractured = lab.after_food("fracture", **ARMS["units"])
    lab.run(fractured)
    again = lab.stage(changes={"parent": fractured, "tokens": 8 * 256})
    assert lab.loss(again, "food", where=0) == lab.loss(fractured, "food")
    before, after = lab.weights(fractured), lab.weights(again)
    assert before.keys() == after.keys() == lab.store.weights(lab.run(again).key).keys()
    still = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert still == {"router.log_ratio", "embedding.rows"}


def test_a_third_stage_fractures_the_fractured_one(lab):
    second = lab.after_food("fracture", **ARMS["lora"])
    lab.run(second)
    third = lab.stage("fracture", {"parent": second, "tokens": 8 * 256}, **ARMS["units"])
    model, trunk = lab.model(third), lab.weights(second)
    assert lab.loss(third, "food", where=0) == lab.loss(second, "food")
    assert all(torch.equal(tensor, model.trunk.state_dict()[name]) for name, tensor in trunk.items())
    assert not any(name.startswith("trunk.") for name in lab.store.weights(lab.run(third).key))
    planned = [s.intervention.growth(s.model, lab.data.vocab_size).weights for s in third.sequence]
    unneeded = (lab.data.vocab_size - len(model.embedding.rows)) * 32
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in lab.model(lab.food).parameters()) + sum(planned) - unneeded


def test_it_is_watched_and_does_not_change_by_it(own_lab):
    """Its trunk does not move; after it, sampled text is a fractured model's own."""
    stage = own_lab.after_food("fracture", rank=4)
    plain = own_lab.weights(stage)
    for each in (stage, own_lab.stage("fracture", {"parent": stage, "tokens": 4 * 256}, rank=2)):
        job = own_lab.job(each)
        job = replace(job, evaluation=job.evaluation.model_copy(update={"monitors": True}))
        run_stage(job, Worker())
        curve = own_lab.store.curve(job.key, job.measured).to_pylist()
        assert {row["value"] for row in curve if row["name"] == "weight_distance"} == {0}
        assert [row["value"] for row in curve if row["name"] == "kl_self"][0] == pytest.approx(0, abs=1e-6)
        assert [row["value"] for row in curve if row["name"] == "cka_self/2"][-1] < 1
    assert all(torch.equal(tensor, own_lab.weights(stage)[name]) for name, tensor in plain.items())


def test_it_is_no_llama(lab):
    job = lab.run(lab.after_food("fracture", rank=4))
    checkpoint = type("C", (), {"stage": job.stage, "folder": Path("somewhere")})
    with pytest.raises(UserError, match="found 'fracture', which changes the model's architecture"):
        check_llama(checkpoint)  # type: ignore[arg-type]


def test_the_model_written_out_cannot_be_fractured(own_lab):
    written_out = own_lab.food.model.model_copy(update={"implementation": "fundamentals"})
    food = own_lab.stage(changes={"model": written_out, "tokens": 256})
    with pytest.raises(UserError, match=re.escape("transformers of implementation torch")):
        own_lab.run(own_lab.stage("fracture", {"model": written_out, "parent": food, "tokens": 256}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"growth": "copy"}, "growth: found 'copy'; allowed: .*'lora', 'units' or 'clone'"),
        ({"parts": ["ffn"]}, "parts: found .*; allowed: nothing with growth: lora, where it does not act"),
        ({"growth": "clone", "parts": ["embedding"]}, "parts.0: found 'embedding'; allowed: .*'bottom', 'top'"),
        ({"router": "none", "prior": 1}, "prior: found 1.*; allowed: nothing with router: none"),
        ({"rank": 0}, "rank: found 0; allowed: .*greater than 0"),
        ({"growth": "units", "rank": 4}, "rank: found 4; allowed: nothing with growth: units, where it does not act"),
        ({"width": 0.5}, "width: found 0.5; allowed: nothing with growth: lora, where it does not act"),
        ({"router": "none", "gamma": 0.5}, "gamma: found 0.5; allowed: nothing with router: none"),
        ({"router": "none", "sharpness": 1}, "sharpness: found 1.*; allowed: nothing with router: none"),
        ({"gamma": 1.5}, "gamma: found 1.5; allowed: .*less than or equal to 1"),
        ({"rate": -1}, "rate: found -1; allowed: .*greater than or equal to 0"),
        ({"threshold": 2}, "threshold: found 2.*; allowed: nothing with trigger: none, where it does not act"),
        ({"trigger": "shift"}, "trigger: found 'shift'; allowed: .*'none' or 'drift'"),
        ({"depth": 2}, "unknown field 'depth'; allowed: kind, growth, rank, "),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        InterventionConfig(kind="fracture", **wrong)
