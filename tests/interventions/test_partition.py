"""A partitioned stage: the frozen units keep their bits, those chosen are the ones said, and all else trains."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from lethe.config import UserError
from lethe.interventions import InterventionConfig
from lethe.interventions.derived import fisher
from lethe.training.loop import Training, run_stage
from lethe.worker import Worker

FFN = [f"blocks.{layer}.ffn" for layer in range(2)]
ARMS: dict[str, dict[str, Any]] = {
    "by fisher": {"sequences": 16},
    "by random": {"by": "random", "share": 0.3},
    "without growth": {"sequences": 16, "width": 0},
    "plain growth": {"share": 0, "width": 0.5},
}


def plain_names(weights: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name.removeprefix("trunk."): tensor.numpy() for name, tensor in weights.items()}


def still(before: dict[str, np.ndarray], after: dict[str, np.ndarray], ffn: str) -> list[int]:
    """The units of a feed-forward of 64 of which no bit has moved; of any other, each of its three parts has."""
    matrices = before[f"{ffn}.gate_up.weight"], after[f"{ffn}.gate_up.weight"]
    downs = before[f"{ffn}.down.weight"], after[f"{ffn}.down.weight"]
    found = []
    for unit in range(64):
        parts = [np.array_equal(*(m[row] for m in matrices)) for row in (unit, 64 + unit)]
        parts.append(np.array_equal(*(m[:, unit] for m in downs)))
        assert all(parts) or not any(parts)
        found += [unit] * all(parts)
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_at_the_switch_it_is_the_model_of_a(lab, arm):
    stage = lab.after_food("partition", **ARMS[arm])
    for corpus in ("food", "automotive"):
        assert lab.loss(stage, corpus, where=0) == lab.loss(lab.food, corpus)
    lab.run(lab.food)
    at_the_switch = Training(lab.job(stage.altered(seed=5)), Worker()).model
    assert torch.equal(lab.logits(at_the_switch, lab.held_out()), lab.logits(lab.model(lab.food), lab.held_out()))


@pytest.mark.parametrize("arm", ARMS)
def test_the_frozen_units_keep_their_bits_and_all_else_trains(lab, arm):
    stage = lab.after_food("partition", **ARMS[arm])
    before, after = plain_names(lab.weights(lab.food)), plain_names(lab.weights(stage))
    assert len(after) == len(before) + (4 if ARMS[arm].get("width", 0.25) else 0)
    assert [len(still(before, after, ffn)) for ffn in FFN] == [round(ARMS[arm].get("share", 0.5) * 64)] * 2
    assert not any(np.array_equal(before[name], after[name]) for name in before)
    assert all(tensor.all() for name, tensor in after.items() if name.startswith("parts."))  # also down, which was 0
    assert lab.loss(stage, "automotive") < lab.loss(lab.food, "automotive") - 0.5


def test_by_fisher_they_are_those_of_the_most_mass(lab):
    stage = lab.after_food("partition", **ARMS["by fisher"])
    before, after = plain_names(lab.weights(lab.food)), plain_names(lab.weights(stage))
    found = {name: tensor.double().numpy() for name, tensor in fisher(lab.switch(stage), 16).items()}
    for ffn in FFN:
        up, down = found[f"{ffn}.gate_up.weight"], found[f"{ffn}.down.weight"]
        mass = [up[unit].sum() + up[64 + unit].sum() + down[:, unit].sum() for unit in range(64)]
        assert still(before, after, ffn) == sorted(np.argsort(mass)[32:])


def test_by_random_they_come_from_the_seed_and_are_not_the_same_in_every_block(lab):
    before = plain_names(lab.weights(lab.food))
    drawn = []
    for seed in (0, 1):
        stage = lab.after_food("partition", {"seed": seed, "tokens": 3 * 256}, by="random", width=0)
        after = plain_names(lab.weights(stage))
        drawn += [tuple(still(before, after, ffn)) for ffn in FFN]
    whole = plain_names(lab.weights(lab.after_food("partition", {"tokens": 2 * 256}, by="random", width=0)))
    assert [tuple(still(before, whole, ffn)) for ffn in FFN] == drawn[:2]
    assert len(set(drawn)) == 4


def test_all_units_frozen_without_growth_is_the_freezing_of_the_feed_forwards(lab):
    """Bit for bit where no step is clipped; where it is, the gradients of what is frozen count here."""
    free = {"recipe": lab.food.recipe.model_copy(update={"clip": 1e9})}
    whole = lab.after_food("partition", free, share=1, width=0, by="random")
    frozen = lab.weights(lab.after_food("freeze", free, parts=["ffn"]))
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in lab.weights(whole).items())


def test_weight_decay_does_not_move_them(lab):
    heavy = lab.food.recipe.model_copy(update={"weight_decay": 30.0})
    stage = lab.after_food("partition", {"recipe": heavy, "tokens": 4 * 256}, by="random", width=0.5)
    before, after = plain_names(lab.weights(lab.food)), plain_names(lab.weights(stage))
    assert [len(still(before, after, ffn)) for ffn in FFN] == [32, 32]


@pytest.mark.parametrize("arm", ARMS)
def test_loaded_it_gives_the_logits_it_ended_with_without_the_fisher(lab, own_lab, arm):
    own_lab.run(own_lab.food)
    stage = own_lab.after_food("partition", {"tokens": 6 * 256}, **ARMS[arm])
    training = Training(own_lab.job(stage), Worker())
    list(training.run())
    for path in (own_lab.store.root.parent / "artefacts").glob("*/*"):
        path.unlink()
    for corpus in ("food", "automotive"):
        ids = own_lab.held_out(corpus)
        assert torch.equal(lab.logits(own_lab.model(stage), ids), lab.logits(training.model, ids))


@pytest.mark.parametrize("arm", ARMS)
def test_its_growth_is_that_of_the_weights(lab, arm):
    stage = lab.after_food("partition", **ARMS[arm])
    planned = stage.intervention.growth(stage.model, lab.data.vocab_size)
    before = sum(p.numel() for p in lab.model(lab.food).parameters())
    assert sum(p.numel() for p in lab.model(stage).parameters()) == before + planned.weights
    assert not planned.frozen


def test_it_needs_the_text_of_a_for_the_fisher_alone():
    needs = {arm: InterventionConfig(kind="partition", **ARMS[arm]).cost().needs for arm in ARMS}
    assert [arm for arm in ARMS if needs[arm] == "statistics"] == ["by fisher", "without growth"]
    assert {needs["by random"], needs["plain growth"]} == {"nothing"}
    assert InterventionConfig(kind="partition", share=0.25).cost().weights == 0.25


@pytest.mark.parametrize("width", [0, 0.25])
def test_a_third_stage_freezes_of_what_the_second_grew_too(lab, width):
    second = lab.after_food("partition", **ARMS["by fisher"])
    lab.run(second)
    third = lab.stage("partition", {"parent": second, "tokens": 4 * 256}, sequences=8, width=width)
    assert lab.loss(third, "food", where=0) == lab.loss(second, "food")
    before, model = lab.weights(second), lab.model(third)
    after = (model.trunk if width else model).state_dict()
    assert before.keys() == after.keys()
    for ffn in FFN:
        for name, count in ((f"trunk.{ffn}.down.weight", 64), (f"parts.{ffn.replace('.', '_')}.down", 16)):
            assert (after[name] == before[name]).all(dim=0).sum() == count // 2


def test_a_plain_stage_after_it_trains_all_of_it(lab):
    second = lab.after_food("partition", **ARMS["by fisher"])
    lab.run(second)
    third = lab.stage(changes={"parent": second, "tokens": 8 * 256})
    before, after = lab.weights(second), lab.weights(third)
    assert before.keys() == after.keys()
    for ffn in FFN:
        assert still(plain_names(before), plain_names(after), ffn) == []


def test_the_model_written_out_is_frozen_but_cannot_grow(own_lab):
    written_out = own_lab.food.model.model_copy(update={"implementation": "fundamentals"})
    brief = {"model": written_out, "tokens": 2 * 256}
    food = own_lab.stage(changes=brief)
    own_lab.run(food)
    frozen = own_lab.stage("partition", {**brief, "parent": food}, by="random", width=0)
    before, after = plain_names(own_lab.weights(food)), plain_names(own_lab.weights(frozen))
    assert [len(still(before, after, ffn)) for ffn in FFN] == [32, 32]
    with pytest.raises(UserError, match=re.escape("partition: model.implementation: allowed: torch, or width 0")):
        own_lab.run(own_lab.stage("partition", {**brief, "parent": food}))


@pytest.mark.parametrize("parameters", [{}, {"share": 0}])
def test_a_first_stage_has_no_units_to_freeze(lab, parameters):
    with pytest.raises(UserError, match="intervention: found 'partition'; allowed without a parent: none"):
        run_stage(lab.job(lab.stage("partition", **parameters)), Worker())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.5}, "share: found 1.5; allowed: .*less than or equal to 1"),
        ({"width": -1}, "width: found -1; allowed: .*greater than or equal to 0"),
        ({"by": "mass"}, "by: found 'mass'; allowed: .*'fisher' or 'random'"),
        ({"by": "random", "sequences": 16}, "sequences: found 16; allowed: nothing with by: random, where it does"),
        ({"share": 0, "sequences": 16}, "sequences: found 16; allowed: nothing with share: 0, where it does not act"),
        ({"share": 0, "by": "random"}, "by: found 'random'; allowed: nothing with share: 0, where it does not act"),
        ({"units": 4}, "unknown field 'units'; allowed: kind, share, by, sequences, width"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        InterventionConfig(kind="partition", **wrong)
