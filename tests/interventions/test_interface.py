"""Every hook of the interface does what it says, in real stages, with kinds written as a user would write them."""

from pathlib import Path

import pytest
import torch

from lethe.interventions import InterventionConfig, find, kinds
from lethe.model.config import ModelConfig
from lethe.tokens.shards import TokenData
from lethe.training.job import Job
from lethe.training.load import load_model
from lethe.training.loop import run_stage
from lethe.training.stage import Evaluation, Recipe, Stage
from lethe.training.store import StageStore
from lethe.worker import Worker

TOY = ModelConfig(layers=1, heads=1, d_model=32, d_ff=64, context=32)

FREEZE = """
    from lethe.interventions.interface import Intervention

    class Freeze(Intervention):
        def learning_rates(self, model):
            return {name: 0.0 if "embedding" in name else 0.5 for name, _ in model.named_parameters()}
"""
REHEARSE = """
    import numpy as np
    from torch.nn import functional as F
    from lethe.config import Config
    from lethe.interventions.interface import Intervention

    class Rehearse(Intervention):
        class Parameters(Config):
            weight: float = 1.0

        def __init__(self, parameters, switch):
            super().__init__(parameters, switch)
            self.teacher = switch.load(switch.stage.parent)

        def extra_rows(self, step):
            return np.random.default_rng(step).integers(1, 300, (4, 33))

        def penalty(self, logits, rows, extra):
            ours, theirs = logits[-extra:], self.teacher(rows[-extra:, :-1]).detach()
            assert len(logits) == len(rows) == 8 + extra
            ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
            return self.parameters.weight * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
"""
AVERAGE = """
    from lethe.interventions.interface import Intervention

    class Average(Intervention):
        trains = False

        @classmethod
        def reads(cls, parameters, stage):
            plain = type(stage)(**dict(stage) | {"tokens": 40 * 256, "intervention": {"kind": "none"}})
            return (plain,)

        def at_end(self, model):
            other = dict(self.switch.load(self.switch.stage.reads[0]).named_parameters())
            for name, parameter in model.named_parameters():
                parameter.data.lerp_(other[name].data, 0.5)
"""
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BALL = PAGE.read_text().split("```python\n")[1].split("```")[0]


@pytest.fixture
def own_kinds(add_kinds) -> None:
    add_kinds({"freeze_test": FREEZE, "rehearse": REHEARSE, "average_test": AVERAGE, "ball": BALL})


@pytest.fixture
def run(own_kinds: None, tmp_path: Path, toy_tokens: TokenData):
    """Trains stages and returns the job of the last."""

    def train(*stages: Stage, **settings) -> Job:
        settings = {"checkpoint_every": 10} | settings
        for a_stage in stages:
            store = StageStore(tmp_path / "stages")
            job = Job(a_stage, toy_tokens, store, ("food", "automotive"), Evaluation(sequences=16, marks=4), **settings)
            run_stage(job, Worker())
        return job

    return train


def stage(kind: str = "none", **changes) -> Stage:
    given = {"model": TOY, "mixture": {"food": 1}, "tokens": 40 * 256, "recipe": Recipe(batch=8, learning_rate=6e-3)}
    return Stage(**given | {"seed": 0, "intervention": InterventionConfig(kind=kind)} | changes)


FOOD = stage()


def after_food(kind: str = "none", **changes) -> Stage:
    return stage(kind, mixture={"automotive": 1}, parent=FOOD, **changes)


def weights(job: Job) -> dict[str, torch.Tensor]:
    return load_model(job.store, job.key).state_dict()


def loss(job: Job, corpus: str, where: int = -1) -> float:
    curve = job.store.curve(job.key, job.measured)
    assert curve is not None
    return [row["value"] for row in curve.to_pylist() if row["name"] == f"loss/{corpus}"][where]


def test_the_kinds_are_the_files():
    assert {"none", "l2_sp"} <= set(kinds())
    assert not {"interface", "derived"} & set(kinds())
    with pytest.raises(ValueError, match="found 'magic'; allowed: .*l2_sp, lora"):
        find("magic")


def test_rates_of_0_freeze_and_others_scale(run):
    before, frozen = weights(run(FOOD)), weights(run(FOOD, after_food("freeze_test")))
    assert torch.equal(frozen["embedding.weight"], before["embedding.weight"])
    assert not torch.equal(frozen["blocks.0.ffn.down.weight"], before["blocks.0.ffn.down.weight"])
    slow = stage(mixture={"automotive": 1}, parent=FOOD, recipe=Recipe(batch=8, learning_rate=3e-3))
    assert not torch.equal(weights(run(FOOD, slow))["embedding.weight"], before["embedding.weight"])


def test_extra_rows_and_a_penalty_pull_to_the_teacher(run):
    plain = run(FOOD, after_food())
    soft = run(FOOD, after_food("rehearse", intervention=InterventionConfig(kind="rehearse", weight=0.05)))
    off = run(FOOD, after_food("rehearse", intervention=InterventionConfig(kind="rehearse", weight=0.0)))
    assert loss(soft, "food") < loss(plain, "food") - 0.1
    assert loss(off, "food") == pytest.approx(loss(plain, "food"), abs=1e-3)


def test_a_stage_of_no_steps_is_made_of_others(run):
    averaged = stage("average_test", mixture={"automotive": 1}, parent=FOOD, tokens=0)
    averaged = Stage(**dict(averaged) | {"reads": find("average_test").reads(None, averaged)})  # type: ignore[arg-type]
    job = run(FOOD, after_food(), averaged)
    a, b = weights(run(FOOD)), weights(run(FOOD, after_food()))
    for name, tensor in weights(job).items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
    assert loss(job, "food") == loss(job, "food", 0)


def test_a_reshaped_model_saves_what_it_added_and_loads_through_its_parent(run):
    job = run(FOOD, after_food("grow"))
    assert list(job.store.weights(job.key)) == ["bias"]
    grown = load_model(job.store, job.key)
    for name, tensor in weights(run(FOOD)).items():
        assert torch.equal(grown.state_dict()[f"trunk.{name}"], tensor)
    assert grown.state_dict()["bias"].abs().max() > 0
    assert loss(job, "automotive") < loss(job, "automotive", 0)


def test_a_stage_after_a_reshaped_one_has_its_shape(run):
    last = stage(mixture={"food": 1}, parent=after_food("grow"))
    job = run(FOOD, after_food("grow"), last)
    assert set(weights(job)) == {"bias", *(f"trunk.{name}" for name in weights(run(FOOD)))}
    assert loss(job, "food", 0) == loss(run(FOOD, after_food("grow")), "food")


def test_one_of_ones_own_is_a_file_of_under_40_lines(run):
    """Its limits: a radius that is never reached is plain training, none is the model of A."""
    assert len(BALL.splitlines()) < 40

    def ball(radius: float) -> Job:
        return run(FOOD, after_food(intervention=InterventionConfig(kind="ball", radius=radius)))

    plain, before = weights(run(FOOD, after_food())), weights(run(FOOD))
    assert all(torch.equal(tensor, plain[name]) for name, tensor in weights(ball(1e9)).items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(ball(0)).items())
    moved = [(tensor - before[name]).double().flatten() for name, tensor in weights(ball(0.02)).items()]
    length = torch.cat([tensor.double().flatten() for tensor in before.values()]).norm().item()
    assert torch.cat(moved).norm().item() == pytest.approx(0.02 * length, rel=1e-3)
    assert loss(run(FOOD), "food") < loss(ball(0.02), "food") < loss(run(FOOD, after_food()), "food")


def test_the_version_of_a_kind_is_in_the_keys_of_its_stages_alone(own_kinds, monkeypatch):
    fingerprints = {"food": "f", "automotive": "a", "tokenizer": "t"}
    plain, soft = after_food(), after_food("rehearse")
    before = plain.key(fingerprints), soft.key(fingerprints)
    monkeypatch.setattr(find("rehearse"), "version", 2)
    assert plain.key(fingerprints) == before[0]
    assert soft.key(fingerprints) != before[1]
