"""Routing between whole models: what it keeps, what it stores, and how stages follow one another."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lethe.config import UserError
from lethe.evaluation.losses import evaluate
from lethe.interventions import InterventionConfig
from lethe.interventions.interface import Cost
from lethe.model.routed import Routed
from lethe.training.load import load_model
from lethe.training.loop import run_stage
from lethe.worker import Worker

ROUTERS = ["bayes", "naive_bayes", "even"]


def held_out(lab: Any, corpus: str) -> Tensor:
    """int64 [n, 33]."""
    split = lab.data.split(corpus, "val")
    return torch.from_numpy(split.read(np.arange(split.windows(32)), 32))


@torch.no_grad()
def nats(model: nn.Module, rows: Tensor) -> Tensor:
    """What each token after the first costs: float64 [n, 32]."""
    log_p = model(rows[:, :-1]).double().log_softmax(-1)
    return -log_p.gather(-1, rows[:, 1:, None])[..., 0]


def test_it_keeps_a_and_learns_b_and_without_a_router_it_does_neither_so_well(lab):
    plain, even = lab.after_food(), lab.after_food("route", router="even")
    for router in ("bayes", "naive_bayes"):
        routed = lab.after_food("route", router=router)
        assert lab.loss(routed, "food") < lab.loss(lab.food, "food") + 0.05 < lab.loss(plain, "food") - 0.5
        assert lab.loss(routed, "automotive") < lab.loss(plain, "automotive") + 0.05
        assert lab.loss(routed, "food") < lab.loss(even, "food") - 0.1
        assert lab.loss(routed, "automotive") < lab.loss(even, "automotive") - 0.1


def test_with_gamma_1_every_text_costs_at_most_ln_2_more_than_of_the_model_of_a(lab):
    routed, before, plain = (lab.model(s) for s in (lab.after_food("route", gamma=1), lab.food, lab.after_food()))
    for corpus in ("food", "automotive"):
        rows = held_out(lab, corpus)
        for model in (before, plain):
            assert (nats(routed, rows).sum(1) <= nats(model, rows).sum(1) + math.log(2) + 1e-4).all()


def test_where_a_text_changes_its_domain_evidence_must_fade(lab):
    food, automotive = held_out(lab, "food")[:24], held_out(lab, "automotive")[:24]
    for first, second in ((food, automotive), (automotive, food)):
        rows = torch.cat((first[:, :17], second[:, 16:32]), dim=1)
        fading, lasting = (nats(lab.model(lab.after_food("route", gamma=g)), rows).mean() for g in (0.9, 1))
        whole = [nats(lab.model(stage), rows).mean() for stage in (lab.food, lab.after_food())]
        assert fading < lasting - 0.1
        assert fading < min(whole) - 0.5


@pytest.mark.parametrize("router", ROUTERS)
def test_it_stores_no_weight_and_comes_back_the_same(lab, router):
    job = lab.run(lab.after_food("route", router=router))
    assert lab.store.weights(job.key) == {}
    model = lab.model(job.stage)
    for part, stage in (("trunk", lab.food), ("path", lab.after_food())):
        for name, tensor in lab.weights(stage).items():
            assert torch.equal(model.state_dict()[f"{part}.{name}"], tensor)
    rows = {corpus: lab.data.split(corpus, "val").read(np.arange(16) * n // 16, 32) for corpus, n in windows(lab)}
    values = evaluate(model, rows, lab.data.byte_lengths, Worker())
    assert [values[f"loss/{c}"] for c in rows] == [lab.loss(job.stage, c) for c in rows]
    ids = held_out(lab, "food")[:4, :-1]
    assert torch.equal(model(ids), load_model(lab.store, job.key)(ids))


def windows(lab: Any) -> list[tuple[str, int]]:
    return [(corpus, lab.data.split(corpus, "val").windows(32)) for corpus in ("food", "automotive")]


def test_the_evidence_of_naive_bayes_is_the_ratio_of_counts(lab):
    records = [lab.store.record(lab.run(stage).key) for stage in (lab.food, lab.after_food())]
    shares = [np.array(record["unigram_counts"]) + 0.5 for record in records]
    ratio = np.log(shares[1] / shares[1].sum()) - np.log(shares[0] / shares[0].sum())
    np.testing.assert_allclose(lab.model(lab.after_food("route", router="naive_bayes")).ratio, ratio, atol=1e-6)


@pytest.mark.parametrize("router", ["bayes", "even"])
def test_of_a_stage_that_changed_nothing_it_is_the_model_of_a(lab, router):
    frozen = lab.after_food("route", router=router, of={"kind": "freeze", "parts": ["all"]})
    for corpus in ("food", "automotive"):
        assert lab.loss(frozen, corpus) == pytest.approx(lab.loss(lab.food, corpus), abs=1e-5)


def test_a_partial_clone_is_of_a_stage_that_left_some_parts_as_they_were(lab):
    of = {"kind": "freeze", "parts": ["bottom"]}
    part, path = lab.after_food("route", of=of), lab.after_food(**of)
    assert part.reads == (path,)
    assert lab.loss(part, "food") < lab.loss(path, "food") - 0.5
    assert lab.loss(part, "automotive") < lab.loss(path, "automotive") + 0.05


@pytest.mark.parametrize(
    "of",
    [
        {"kind": "none"},
        {"kind": "freeze", "parts": ["bottom"]},
        {"kind": "freeze", "parts": ["embedding", "attention", "ffn"]},
        {"kind": "fracture", "rank": 4},
        {"kind": "fracture", "rank": 4, "router": "none"},
    ],
    ids=str,
)
def test_what_the_path_has_not_trained_is_held_once_and_its_growth_is_the_rest(lab, of):
    routed, path = lab.after_food("route", of=of), lab.after_food(**of)
    model, before = lab.model(routed), lab.model(lab.food)
    held = sum(p.numel() for p in model.parameters())
    growth = routed.intervention.growth(routed.model, lab.data.vocab_size)
    assert held == sum(p.numel() for p in before.parameters()) + growth.parameters
    for part, stage in (("trunk", lab.food), ("path", path)):
        weights = lab.weights(stage)
        assert all(torch.equal(tensor, getattr(model, part).state_dict()[name]) for name, tensor in weights.items())
    apart = Routed(before, lab.model(path), model.router, model.gamma)
    ids = held_out(lab, "food")[:4, :-1]
    assert torch.equal(model(ids), apart(ids))


def test_of_three_stages_all_paths_hold_in_common_what_was_never_trained(lab, three):
    of = {"kind": "freeze", "parts": ["bottom"]}
    stage = three(of=of)
    held = sum(p.numel() for p in lab.model(stage).parameters())
    growth = stage.intervention.growth(stage.model, lab.data.vocab_size)
    assert held == sum(p.numel() for p in lab.model(lab.food).parameters()) + 2 * growth.parameters


def test_a_plain_stage_after_it_trains_what_was_held_in_common_apart(lab):
    routed = lab.after_food("route", of={"kind": "freeze", "parts": ["bottom"]})
    again = lab.stage(changes={"parent": routed, "tokens": 10 * 256})
    before, after = lab.model(routed), lab.model(again)
    assert before.trunk.blocks[0].ffn.down.weight is before.path.blocks[0].ffn.down.weight
    assert len({id(p) for p in after.parameters()}) == len(dict(after.named_parameters(remove_duplicate=False)))
    assert not torch.equal(after.trunk.blocks[0].ffn.down.weight, after.path.blocks[0].ffn.down.weight)
    assert lab.store.weights(lab.job(again).key).keys() == after.state_dict().keys()


@pytest.fixture
def three(lab: Any) -> Any:
    """The third stage of food, automotive, both."""

    def make(**parameters: Any) -> Any:
        return lab.after_food(
            "route", {"mixture": MIXED, "parent": lab.after_food("route", **parameters)}, **parameters
        )

    return make


MIXED = {"food": 0.5, "automotive": 0.5}


def test_of_three_stages_each_path_goes_on_from_the_path_before(lab, three):
    plain = lab.after_food(changes={"mixture": MIXED, "parent": lab.after_food()})
    assert three().reads == (plain,)
    assert three().identity != lab.after_food("route", {"mixture": MIXED}).identity
    assert three().offsets == plain.offsets
    assert three().drawn == plain.drawn
    of = {"kind": "freeze", "parts": ["bottom"]}
    chain = lab.after_food(changes={"mixture": MIXED, "parent": lab.after_food(**of)}, **of)
    assert three(of=of).reads == (chain,)


def test_of_three_stages_with_gamma_1_it_is_the_posterior_from_a_quarter_a_quarter_and_a_half(lab, three):
    model, paths = lab.model(three(gamma=1)), [lab.food, lab.after_food(), three().reads[0]]
    for corpus in ("food", "automotive"):
        rows = held_out(lab, corpus)
        costs = torch.stack([nats(lab.model(stage), rows).sum(1) for stage in paths], dim=1)
        expected = torch.logsumexp(torch.tensor([0.25, 0.25, 0.5]).double().log() - costs, dim=1)
        torch.testing.assert_close(-nats(model, rows).sum(1), expected, atol=1e-3, rtol=1e-5)


def test_a_plain_stage_after_it_trains_both_models_through_the_mixture(lab):
    routed = lab.after_food("route")
    again = lab.stage(changes={"parent": routed, "tokens": 10 * 256})
    before, after = lab.model(routed), lab.model(again)
    assert isinstance(after, Routed)
    assert lab.loss(again, "food", 0) == lab.loss(routed, "food")
    assert lab.loss(again, "food") < lab.loss(routed, "food") - 0.01
    for part in ("trunk", "path"):
        now = dict(getattr(after, part).named_parameters())
        assert all(not torch.equal(old, now[name]) for name, old in getattr(before, part).named_parameters())
    assert len(lab.store.weights(lab.job(again).key)) == len(after.state_dict())


def test_it_can_be_watched(own_lab):
    stage = own_lab.after_food("route")
    own_lab.run(stage)
    job = own_lab.job(stage)
    job = replace(job, evaluation=job.evaluation.model_copy(update={"monitors": True}))
    run_stage(job, Worker())  # again, for another curve: the store would refuse other weights
    curve = own_lab.store.curve(job.key, job.measured)
    assert curve is not None
    values = {row["name"]: row["value"] for row in curve.to_pylist()}
    assert values["kl_self"] < 0.2 < values["kl/automotive"]
    assert not [name for name in values if name.startswith(("weight_distance", "cka"))]  # a mixture has no geometry


def test_without_the_stage_it_reads_it_cannot_be_opened(own_lab):
    job = own_lab.run(own_lab.after_food("route"))
    path = own_lab.job(own_lab.after_food()).key
    (own_lab.store.folder(path) / "stage.json").unlink()
    with pytest.raises(UserError, match=f"{path}: not a finished stage"):
        load_model(own_lab.store, job.key)


def test_without_a_parent_it_is_refused_before_anything_starts(lab):
    with pytest.raises(UserError, match="intervention: found 'route'; allowed without a parent: none"):
        lab.stage("route")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"gamma": 1.1}, "gamma: found 1.1; allowed: .*less than or equal to 1"),
        ({"router": "even", "gamma": 1}, "gamma: found 1; allowed: nothing with router: even, where it does not act"),
        ({"router": "magic"}, "router: found 'magic'; allowed: .*'bayes', 'naive_bayes' or 'even'"),
        ({"of": {"kind": "route"}}, "of: found {'kind': 'route'}; allowed: any other kind"),
        ({"of": {"kind": "freeze", "parts": ["nose"]}}, "of: .*parts.0: found 'nose'; allowed: .*'embedding'"),
        ({"of": "magic"}, "of: found 'magic'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(parameters, message):
    with pytest.raises(ValueError, match=message):
        InterventionConfig(kind="route", **parameters)


@pytest.mark.parametrize(
    ("parameters", "cost"),
    [
        ({}, Cost(flops=0)),
        ({"router": "naive_bayes"}, Cost("statistics", flops=0)),
        ({"router": "naive_bayes", "of": {"kind": "distill"}}, Cost("samples", weights=1, rows=0.25, flops=0)),
    ],
)
def test_it_costs_another_model_and_what_its_path_needs(parameters, cost):
    assert InterventionConfig(kind="route", **parameters).cost() == cost
