"""Cells whose last stage trains nothing and reads another cell's: they are planned and have results as any other."""

import pytest
import yaml

from grid.driver import keys_of
from grid.queue import Outcome, Queue
from grid.results import Results
from grid.spec import load_grid
from grid.tree import Tree
from lethe.training.job import Job
from lethe.training.loop import run_stage
from lethe.training.store import StageStore
from lethe.worker import Worker

GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "tokenizer": {"vocab_size": 320},
    "baselines": ["sequential_ab", "sequential_ba"],
    "interventions": {
        "half": {"kind": "average", "share": 0.5},
        "off": {"kind": "average", "share": 0},
        "prior": {"kind": "prior"},
        "none": {"kind": "none"},
    },
    "stage": {"tokens": 10_240, "batch": 8, "learning_rate": 6e-3, "relearning_tokens": 1_024},
}


@pytest.fixture
def trained(tmp_path, toy_tokens):
    """The rows of all cells by name, and the cells' curves."""
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(GRID | {"storage": str(tmp_path)}))
    grid = load_grid(tmp_path / "g.yaml")
    tree, store = Tree(grid), StageStore(tmp_path / "runs" / "stages")
    jobs = {i: Job(s, toy_tokens, store, tuple(grid.corpora), grid.stage.evaluation) for i, s in tree.stages.items()}
    for job in jobs.values():  # in the order of the tree, which puts first what others need
        run_stage(job, Worker())
    results = Results(grid, tree.cells, store, keys_of(tree, toy_tokens), next(iter(jobs.values())).measured)
    rows = {row["intervention"]: row for row in results.write({c.name: Outcome("finished") for c in tree.cells})[:4]}
    return rows, {cell.intervention: results.curve(cell) for cell in tree.cells[:4]}


def test_they_have_results_like_any_other(trained):
    rows, curves = trained
    plain, off, half, prior = (rows[name] for name in ("none", "off", "half", "prior"))
    for metric in ("final_loss/food", "final_loss/automotive", "forgetting/food", "fraction_lost/food"):
        assert off[metric] == plain[metric]
        assert half[metric] != plain[metric]
    assert 0 < half["forgetting/food"] < plain["forgetting/food"]
    assert prior["final_loss/food"] < plain["final_loss/food"]
    assert all(row["relearning_savings/food"] is None or row["relearning_savings/food"] <= 1 for row in rows.values())
    assert half["forgetting_area/food"] is None
    stages = curves["half"]["stage"].to_pylist()
    assert set(zip(stages, curves["half"]["tokens"].to_pylist(), strict=True)) >= {(0, 0), (1, 10_240)}


def test_one_waits_while_another_cell_trains_what_it_reads(tmp_path):
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(GRID | {"storage": str(tmp_path), "baselines": ["sequential_ab"]}))
    tree = Tree(load_grid(tmp_path / "g.yaml"))
    half, plain = (next(cell for cell in tree.cells if cell.intervention == label) for label in ("half", "none"))
    first = plain.stages[0].identity
    queue = Queue([half, plain], set(tree.stages) - {first}, retries=0)
    queue.waiting.remove(plain)
    queue.begin("trial", plain)
    assert plain.stages[1].identity in half.needed
    assert queue.next() is None
    queue.done("trial", Outcome("finished"), None)
    assert queue.next() is half
    assert set(queue.lacks(half)) == {half.stages[1].identity, *(branch.identity for branch in half.branches)}
