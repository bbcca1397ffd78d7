"""Rebuilding one model of the old size from what grew: its two ends, and what it needs."""

import pytest
import torch

from lethe.interventions import InterventionConfig
from lethe.interventions.interface import Cost
from lethe.model.transformer import TorchTransformer


def test_off_it_is_a_second_pass_of_plain_training_over_the_same_tokens(lab):
    plain = lab.after_food()
    again = lab.stage("none", {"mixture": {"automotive": 1}, "parent": plain})
    rebuilt = lab.after_food("rebuild", weight=0)
    assert rebuilt.offsets == plain.offsets != again.offsets  # it reads what the stage before read, not on
    assert lab.loss(rebuilt, "automotive", 0) == lab.loss(plain, "automotive")
    assert lab.loss(rebuilt, "automotive") < lab.loss(plain, "automotive")


def test_full_it_comes_near_the_outputs_of_its_teacher(lab):
    """The nearer the greater the weight, from where it began."""
    teacher, plain = lab.model(lab.after_food("route")), lab.model(lab.after_food())
    rows = torch.from_numpy(lab.data.split("food", "val").read(torch.arange(16).numpy(), 32))[:, :-1]

    @torch.no_grad()
    def distance(model) -> float:
        theirs, ours = teacher(rows).log_softmax(-1), model(rows).log_softmax(-1)
        return float((theirs.exp() * (theirs - ours)).sum(-1).mean())

    distances = [distance(plain)]
    distances += [distance(lab.model(lab.after_food("rebuild", weight=w, sequences=64))) for w in (0.3, 10)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 3


@pytest.mark.parametrize("of", [{"kind": "route"}, {"kind": "fracture", "rank": 4}])
def test_in_the_end_nothing_has_grown(lab, of):
    rebuilt = lab.model(lab.after_food("rebuild", of=of, sequences=16))
    assert type(rebuilt) is TorchTransformer
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {
        n: t.shape for n, t in lab.weights(lab.food).items()
    }


def test_a_rebuilt_stage_can_be_gone_on_from(lab):
    rebuilt = lab.after_food("rebuild", sequences=16)
    third = lab.stage("route", {"mixture": {"food": 1}, "parent": rebuilt})
    assert lab.loss(third, "food") < lab.loss(rebuilt, "food") + 0.05


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, Cost("samples", weights=2, rows=1, flops=2 * (1 + 2 / 3))),
        ({"of": {"kind": "fracture"}, "rows": 0.5}, Cost("samples", weights=1, rows=0.5, flops=1.5 * (1 + 1 / 3))),
        ({"weight": 0}, Cost()),
    ],
)
def test_what_it_costs(parameters, expected):
    assert InterventionConfig(kind="rebuild", **parameters).cost() == expected


def test_what_grows_nothing_cannot_be_rebuilt():
    with pytest.raises(ValueError, match=r"of: found .*allowed: fracture or route, which grow"):
        InterventionConfig(kind="rebuild", of={"kind": "lr", "scale": 0.5})
