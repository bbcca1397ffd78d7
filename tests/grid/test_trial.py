"""What a trial tells while it walks the stages of its cell."""

import pytest
import yaml

import grid.trial
from grid.driver import make_setup
from grid.spec import load_grid
from grid.tree import Tree
from grid.trial import CellTrial, _own_fault, train_cell

GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "tokenizer": {"vocab_size": 320},
    "baselines": ["sequential_ab"],
    "stage": {"tokens": 2_560, "batch": 8, "learning_rate": 6e-3, "evaluation": {"sequences": 8, "marks": 2}},
}


def cell_and_setup(tmp_path, toy_tokens, **changes):
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(GRID | {"storage": str(tmp_path)}))
    tree = Tree(load_grid(tmp_path / "g.yaml", [f"{name}={value}" for name, value in changes.items()]))
    return tree.cells[0], make_setup(tree, toy_tokens)


def test_it_tells_of_every_evaluation_and_of_every_stage_that_is_finished(tmp_path, toy_tokens):
    cell, setup = cell_and_setup(tmp_path, toy_tokens)
    first, second = (stage.identity for stage in cell.stages)
    told = [(result["status"], result.get("stage"), result.get("step")) for result in train_cell(cell, setup, ())]
    marks = sorted({0, 1, 2, 4, 5, 10} & {step for _, stage, step in told if stage == first})
    for stage in (first, second):
        assert [step for status, its, step in told if (status, its) == ("running", stage)] == marks
        assert ("trained", stage, None) in told
    assert told[-1] == ("finished", None, None)
    again = [result["status"] for result in train_cell(cell, setup, ())]
    assert again == ["trained", "trained", "finished"]


def test_while_another_program_trains_its_stage_it_waits_and_says_so(tmp_path, toy_tokens, monkeypatch):
    monkeypatch.setattr(grid.trial, "SECONDS_BETWEEN_SIGNS", 0.05)
    cell, setup = cell_and_setup(tmp_path, toy_tokens)
    job = setup.job(cell.stages[0])
    results = train_cell(cell, setup, ())
    with job.store.own(job.key):
        waiting = [next(results) for _ in range(3)]
    assert [(result["status"], result["done"]) for result in waiting] == [("waiting", False)] * 3
    assert next(results)["status"] == "running"


def test_a_stage_that_diverged_ends_the_cell_and_is_noted(tmp_path, toy_tokens):
    cell, setup = cell_and_setup(tmp_path, toy_tokens, **{"stage.learning_rate": 1e30})
    *_, last = train_cell(cell, setup, ())
    job = setup.job(cell.stages[0])
    assert (last["status"], last["stage"], last["done"]) == ("diverged", cell.stages[0].identity, True)
    assert job.store.diverged(job.key) == last["reason"]
    assert not job.partial.exists()


def test_what_a_cell_raises_is_told_and_not_tried_again_unless_the_disk_is_to_blame():
    def raises(error: Exception):
        raise error
        yield

    trial = object.__new__(CellTrial)
    trial.results = raises(ValueError("bad\nthing"))
    result = trial.step()
    assert (result["status"], result["reason"], result["done"]) == ("failed", "ValueError: bad", True)
    assert "in raises" in result["story"]
    trial.results = raises(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        trial.step()


def test_of_ranks_the_one_that_raised_is_named_and_not_those_that_missed_it():
    lost = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
    assert _own_fault({0: lost, 1: ValueError("bad")}) == "rank 1 raised ValueError: bad"
    assert _own_fault({0: lost, 1: OSError("No space")}) is None
    ill = type("WorkerHealthCheckFailedError", (Exception,), {"__module__": "ray.train.v2._internal.exceptions"})
    assert _own_fault({0: lost, 1: ill("A worker health check failed.")}) is None
