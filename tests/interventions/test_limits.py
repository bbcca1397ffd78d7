"""Every kind: off it is plain training bit for bit, full it is its known end; killed and resumed it is the same."""

from typing import Any

import pytest
import torch

from lethe.interventions import kinds
from lethe.worker import Worker

Arm = tuple[str, dict[str, Any]]

OFF: list[Arm] = [
    ("average", {"share": 0}),
    ("distill", {"weight": 0}),
    ("distill", {"weight": 0, "on": "buffer"}),
    ("distill", {"weight": 0, "on": "batch"}),
    ("ema", {"decay": 0}),
    ("ewc", {"strength": 0, "sequences": 4}),
    ("freeze", {"parts": []}),
    ("gpm", {"share": 0}),
    ("l2_sp", {"strength": 0}),
    ("lr", {"scale": 1}),
    ("lr", {"scale": 1, "warmup": 0.05}),
    ("partition", {"share": 0, "width": 0}),
    ("replay_self", {"weight": 0}),
    ("watch", {}),
]
FULL: list[Arm] = [
    ("average", {"share": 1}),
    ("ema", {"decay": 1}),
    ("ewc", {"strength": 1e30, "sequences": 4, "floor": 1e-3}),
    ("freeze", {"parts": ["all"]}),
    ("gpm", {"share": 1, "sequences": 4}),
    ("l2_sp", {"strength": 1e30}),
    ("lora", {"rank": 0}),
    ("lr", {"scale": 0}),
]
BETWEEN: list[Arm] = [
    ("distill", {"sequences": 16}),
    ("distill", {"on": "buffer", "sequences": 16}),
    ("distill", {"on": "batch"}),
    ("ema", {"decay": 0.9}),
    ("ewc", {"strength": 100, "sequences": 16}),
    ("fracture", {"rank": 4}),
    ("fracture", {"growth": "units", "embedding": "needed"}),
    ("fracture", {"growth": "clone", "rate": 1, "self_rows": 0.5}),
    ("fracture", {"rank": 4, "trigger": "drift"}),
    ("freeze", {"parts": ["bottom", "norms"]}),
    ("gpm", {"share": 0.9, "sequences": 16}),
    ("l2_sp", {"strength": 10}),
    ("lora", {"rank": 4}),
    ("lr", {"scale": 0.3, "warmup": 0.2}),
    ("partition", {"sequences": 16}),
    ("rebuild", {"sequences": 16}),
    ("rebuild", {"of": {"kind": "fracture", "rank": 4}, "sequences": 16}),
    ("replay_self", {"sequences": 16}),
]


def names(arms: list[Arm]) -> dict[str, Any]:
    return {"ids": [" ".join([kind, *map(str, parameters.values())]) for kind, parameters in arms]}


def test_every_kind_has_its_limits_tested():
    """Another end than the model of A has a test of its own: distill, partition, replay_self; `own` have both."""
    own = {"fracture", "prior", "rebuild", "route"}
    assert {kind for kind, _ in OFF} == set(kinds()) - {"lora", "none"} - own
    assert {kind for kind, _ in FULL} == set(kinds()) - {"none", "distill", "partition", "replay_self", "watch"} - own
    assert {kind for kind, _ in BETWEEN} == set(kinds()) - {"none", "average", "prior", "route", "watch"}


@pytest.mark.parametrize(("kind", "parameters"), OFF, **names(OFF))
def test_off_it_is_plain_training(lab, kind, parameters):
    off = lab.after_food(kind, **parameters)
    assert lab.same(lab.weights(off), lab.weights(lab.after_food()))
    assert lab.loss(off, "food") == lab.loss(lab.after_food(), "food")


@pytest.mark.parametrize(("kind", "parameters"), FULL, **names(FULL))
def test_full_it_is_the_model_of_a(lab, kind, parameters):
    full = lab.after_food(kind, **parameters)
    if kind == "gpm":  # it takes off what was added, and rounds
        for name, tensor in lab.weights(full).items():
            torch.testing.assert_close(tensor, lab.weights(lab.food)[name], atol=1e-6, rtol=0)
    else:
        assert lab.same(lab.weights(full), lab.weights(lab.food))
        assert lab.loss(full, "food") == lab.loss(lab.food, "food")


HELPS = [arm for arm in BETWEEN if arm[0] != "partition"]  # the null hypothesis: nothing is said of what it forgets


@pytest.mark.parametrize(("kind", "parameters"), HELPS, **names(HELPS))
def test_between_it_forgets_less_than_plain_training_and_learns(lab, kind, parameters):
    between, plain = lab.after_food(kind, **parameters), lab.after_food()
    assert lab.loss(between, "food") < lab.loss(plain, "food")
    assert lab.loss(between, "automotive") < lab.loss(lab.food, "automotive")


WITHOUT_TEXT = [arm for arm in BETWEEN if arm[0] != "fracture"]


@pytest.mark.parametrize(("kind", "parameters"), WITHOUT_TEXT, **names(WITHOUT_TEXT))
def test_it_goes_with_interleaving(lab, kind, parameters):
    """A quarter of A's own text keeps more of A than the intervention alone, and the intervention still acts.

    Not of fracture: A's text in the stage blurs what its router knows of B.
    """
    mixed = {"mixture": {"automotive": 0.75, "food": 0.25}}
    both = lab.loss(lab.after_food(kind, mixed, **parameters), "food")
    assert both < lab.loss(lab.after_food(kind, **parameters), "food")
    assert both != lab.loss(lab.after_food(changes=mixed), "food")


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("kind", "parameters"), BETWEEN, **names(BETWEEN))
def test_killed_and_resumed_it_ends_with_the_same_bits(lab, own_lab, kind, parameters):
    stage = lab.after_food(kind, **parameters)

    def report(step: int, values: dict[str, float]) -> None:
        if step >= 20:
            raise KilledError

    with pytest.raises(KilledError):
        own_lab.run(stage, report=report)
    seen: list[int] = []
    own_lab.run(stage, report=lambda step, values: seen.append(step))
    assert min(seen) == 20
    assert lab.same(own_lab.weights(stage), lab.weights(stage))


@pytest.mark.parametrize(("kind", "parameters"), BETWEEN, **names(BETWEEN))
def test_micro_batches_change_rounding_alone(lab, own_lab, kind, parameters):
    """2 extra rows over 8 passes: most passes have none."""
    brief = {"tokens": 4 * 256}
    stage = lab.after_food(kind, brief, **parameters)
    own_lab.run(stage, Worker(micro_batch=1))
    for name, tensor in own_lab.weights(stage).items():
        torch.testing.assert_close(tensor, lab.weights(stage)[name], atol=2e-3, rtol=0)
    assert own_lab.loss(stage, "food") == pytest.approx(lab.loss(stage, "food"), abs=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "parameters"), BETWEEN, **names(BETWEEN))
def test_compiled_it_trains_alike(lab, kind, parameters):
    compiled = lab.food.recipe.model_copy(update={"compile": True})
    eager, fast = (
        lab.after_food(kind, {"tokens": 6 * 256, "recipe": r}, **parameters) for r in (lab.food.recipe, compiled)
    )
    assert lab.loss(fast, "food") == pytest.approx(lab.loss(eager, "food"), abs=1e-3)
    assert lab.loss(fast, "automotive") == pytest.approx(lab.loss(eager, "automotive"), abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="needs bf16 units")
@pytest.mark.parametrize(("kind", "parameters"), BETWEEN, **names(BETWEEN))
def test_in_bf16_it_ends_near_float32(lab, kind, parameters):
    half = lab.food.recipe.model_copy(update={"precision": "bf16"})
    whole, fast = (lab.after_food(kind, {"recipe": r}, **parameters) for r in (lab.food.recipe, half))
    assert lab.loss(fast, "food") == pytest.approx(lab.loss(whole, "food"), rel=0.05)
    assert lab.loss(fast, "automotive") == pytest.approx(lab.loss(whole, "automotive"), rel=0.05)
