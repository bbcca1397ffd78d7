"""What a cell leaves in a real MLflow store, and that writing it twice changes nothing."""

import socket
import time
from pathlib import Path

import mlflow
import pyarrow as pa
import pytest
import yaml
from mlflow import MlflowClient

from grid.results import CELL_CURVE
from grid.spec import Grid, load_grid
from grid.tracking import COORDINATES, TAGS, Tracker
from grid.tree import Tree
from lethe.config import UserError

GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "baselines": ["sequential_ab"],
    "stage": {"tokens": 25_600, "batch": 8, "learning_rate": 6e-3},
}
GROUP = "food/entity/memorised"


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(GRID | {"storage": str(tmp_path)}))
    return load_grid(tmp_path / "g.yaml")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_cell_is_one_run_with_the_curves_that_are_shown(grid: Grid, uri: str):
    (cell,) = Tree(grid).cells
    measured = {"loss/food": [8.0, 4.0], f"probe_margin/{GROUP}": [0.0, 1.0], f"probe_facts/{GROUP}": [9.0, 9.0]}
    shown = measured | {f"probe_accuracy/{GROUP}": [0.2, 0.9], f"probe_accuracy_pmi/{GROUP}": [0.3, 0.8]}
    helpers = {f"probe_accuracy_byte/{GROUP}": [0.2, 0.7], f"probe_margin_sd/{GROUP}": [1.0, 2.0]}
    helpers |= {f"relearning/food/{name}": values for name, values in helpers.items()}
    points = [
        {
            "cell": cell.name,
            "stage": 0,
            "step": step,
            "tokens": step * 512,
            "seconds": 1.0,
            "name": name,
            "value": value,
        }
        for name, values in (shown | helpers).items()
        for step, value in zip((0, 50), values, strict=True)
    ]
    row = {"baseline": cell.baseline, "model": cell.model, "interleaving_ratio": 0.0, "intervention": "none", "seed": 0}
    row |= {"intervention_kind": "none", "intervention_config": "{}", "status": "finished", "reason": None}
    row |= {"stage_key": "k", "needs": None, "budget": None, "tokens": 51_200.0, f"probe_counts/{GROUP}": 1.0}
    for _ in range(2):
        tracker = Tracker(uri, grid, "a plan", {"food": "f" * 64})
        tracker.log(cell, row, pa.Table.from_pylist(points, schema=CELL_CURVE))
        assert tracker.close(60) is None

    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(grid.name).experiment_id])
    assert run.info.run_name == cell.name
    assert set(run.data.metrics) == {*shown, "tokens", f"probe_counts/{GROUP}"}
    for name, values in shown.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [(point.step, point.value) for point in history] == list(zip((0, 25_600), values, strict=True))
    assert [(data.dataset.name, data.dataset.digest) for data in run.inputs.dataset_inputs] == [("food", "f" * 36)]
    assert {name: run.data.tags[name] for name in ("lethe.stage_key", "lethe.status")} == {
        "lethe.stage_key": "k",
        "lethe.status": "finished",
    }
    assert run.data.tags["lethe.version.mlflow"] == mlflow.__version__
    assert run.data.params == {name: str(row[name]) for name in COORDINATES}


def test_a_run_whose_answer_was_lost_is_not_doubled(grid: Grid, uri: str):
    (cell,) = Tree(grid).cells
    tracker, client = Tracker(uri, grid, "a plan", {}), MlflowClient(uri)
    for _ in range(2):  # both were made, and the answer to the first came too late
        client.create_run(tracker.experiment, run_name=cell.name, tags={"lethe.cell": cell.name})
    row = dict.fromkeys((*COORDINATES, *TAGS)) | {"status": "finished", "final_loss/food": 4.0, "reason": "x" * 10_000}
    tracker.log(cell, row, None)
    assert tracker.close(60) is None
    (run,) = client.search_runs([tracker.experiment])
    assert run.data.metrics == {"final_loss/food": 4.0}
    assert run.data.tags["lethe.reason"] == "x" * 5_000


def test_a_cell_that_is_trained_is_followed_and_ends_with_each_point_once(grid: Grid, uri: str, monkeypatch):
    monkeypatch.setattr("grid.tracking.LIVE_EVERY", -1)
    (cell,) = Tree(grid).cells
    row = dict.fromkeys((*COORDINATES, *TAGS))
    point = {"cell": cell.name, "stage": 0, "seconds": 1.0, "name": "loss/food"}
    curve = [point | {"step": i, "tokens": i * 512, "value": 8.0 - i} for i in range(4)]
    client = MlflowClient(uri)
    for known in (1, 3, 4):  # the driver is lost after 3, and another one begins
        if known != 3:
            tracker = Tracker(uri, grid, "a plan", {})
        table = pa.Table.from_pylist(curve[:known], schema=CELL_CURVE)
        if known < 4:
            tracker.follow(cell, lambda table=table: (row | {"status": "running", "growth": 0.0}, table))
        else:
            tracker.log(cell, row | {"status": "finished", "final_loss/food": 5.0, "tokens": 1536}, table)
        while tracker.outbox.letters:
            time.sleep(0.05)
        (run,) = client.search_runs([tracker.experiment])
        assert run.info.status == ("RUNNING" if known < 4 else "FINISHED")
        history = client.get_metric_history(run.info.run_id, "loss/food")
        assert [(p.step, p.value) for p in history] == [(p["tokens"], p["value"]) for p in curve[:known]]
    assert tracker.close(60) is None
    assert run.data.metrics == {"loss/food": 5.0, "final_loss/food": 5.0, "tokens": 1536}


def test_a_store_that_cannot_be_used_is_refused_at_once_without_its_password(grid: Grid, tmp_path: Path):
    (tmp_path / "text.db").write_text("no database")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for bad in (f"http://me:secret@127.0.0.1:{port}", f"sqlite:///{tmp_path / 'text.db'}", "quux://me:secret@there"):
        with pytest.raises(UserError, match="tracking URI: found .*allowed: sqlite") as error:
            Tracker(bad, grid, "a plan", {})
        assert "secret" not in str(error.value)


def test_waiting_for_a_server_that_takes_and_does_not_answer_is_told(grid: Grid, monkeypatch, capsys):
    monkeypatch.setattr("grid.tracking.SILENCE", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match="tracking URI: found .*allowed: sqlite"):
            Tracker(address, grid, "a plan", {})
    said = capsys.readouterr().err
    assert "has not answered for 0.1 s: waiting" in said
    assert "secret" not in said


def test_a_deleted_experiment_is_named(grid: Grid, uri: str):
    MlflowClient(uri).delete_experiment(Tracker(uri, grid, "a plan", {}).experiment)
    with pytest.raises(UserError, match="is deleted; allowed: .* name=ANOTHER"):
        Tracker(uri, grid, "a plan", {})


def test_the_plan_of_a_great_grid_is_noted_as_far_as_a_note_goes(grid: Grid, uri: str):
    plan = "\n".join(f"stage {i} of a plan" for i in range(5000))
    for description in ("a plan", plan):
        Tracker(uri, grid, description, {})
        found = MlflowClient(uri).get_experiment_by_name(grid.name).tags["mlflow.note.content"]
        lines = found.removeprefix("```\n").removesuffix("\n```").splitlines()
        assert description.startswith("\n".join(lines[:-1] if description is plan else lines))
    assert lines[-1] == f"... and {5000 - len(lines) + 1} lines more: plan.json has all"
    assert len(lines) > 500
