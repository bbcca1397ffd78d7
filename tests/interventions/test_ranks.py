"""Two ranks with micro-batches give what one gives, up to rounding: the gradients that interventions add are shared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ARMS = [
    ("none", {}),
    ("distill", {"sequences": 16, "rows": 0.375}),
    ("distill", {"on": "batch"}),
    ("replay_self", {"sequences": 16, "rows": 0.125}),
    ("ewc", {"strength": 100, "sequences": 4}),
    ("fracture", {"rank": 2}),
    ("fracture", {"rank": 2, "self_rows": 0.375}),
    ("fracture", {"rank": 2, "trigger": "drift"}),
    ("freeze", {"parts": ["all"]}),
    ("gpm", {"share": 0.9, "sequences": 4}),
    ("lora", {"rank": 2}),
    ("ema", {"decay": 0.9}),
    ("partition", {"sequences": 4}),
    ("average", {"share": 0.5}),
    ("route", {}),
    ("route", {"router": "naive_bayes"}),
    ("rebuild", {"sequences": 16}),  # of `route`, so after it
]


@pytest.fixture(scope="module")
def two_ranks(lab, toy_tokens, tmp_path_factory):
    """A laboratory in which two ranks have trained every arm; the parent and what is derived from it are one rank's."""
    lab = type(lab)(tmp_path_factory.mktemp("ranks"), toy_tokens)
    lab.run(lab.food)
    stages = [stage(lab, *arm) for arm in ARMS]
    controls = [control for each in stages if each.intervention.kind == "fracture" for control in each.reads]
    stages = controls + stages
    job = lab.job(lab.food)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run += [str(Path(__file__).with_name("ranks.py")), str(lab.store.root), str(toy_tokens.root)]
    run += [job.evaluation.model_dump_json(), json.dumps([s.model_dump(mode="json") for s in stages])]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return lab


def stage(lab, kind: str, parameters: dict):
    return lab.after_food(kind, {"tokens": 6 * 256}, **parameters)


@pytest.mark.parametrize(("kind", "parameters"), ARMS)
def test_two_ranks_give_what_one_gives(two_ranks, lab, kind, parameters):
    this = stage(lab, kind, parameters)
    record = two_ranks.store.record(two_ranks.job(this).key)
    assert record is not None
    assert record["made_with"]["ranks"] == 2
    for name, tensor in two_ranks.weights(this).items():
        torch.testing.assert_close(tensor, lab.weights(this)[name], atol=2e-3, rtol=0)
    assert two_ranks.loss(this, "food") == pytest.approx(lab.loss(this, "food"), abs=2e-4)
