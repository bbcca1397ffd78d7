"""What a cell leaves in a real MLflow store, and that writing it twice changes nothing."""

from pathlib import Path

import pyarrow as pa
import yaml
from mlflow import MlflowClient

from grid.results import CELL_CURVE
from grid.spec import load_grid
from grid.tracking import Tracker
from grid.tree import Tree

GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "baselines": ["sequential_ab"],
    "stage": {"tokens": 25_600, "batch": 8, "learning_rate": 6e-3},
}
GROUP = "food/entity/memorised"


def test_a_cell_is_one_run_with_the_curves_that_are_shown(tmp_path: Path):
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(GRID | {"storage": str(tmp_path)}))
    grid = load_grid(tmp_path / "g.yaml")
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
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):
        Tracker(uri, grid, "a plan").log(cell, row, pa.Table.from_pylist(points, schema=CELL_CURVE))

    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(grid.name).experiment_id])
    assert run.info.run_name == cell.name
    assert set(run.data.metrics) == {*shown, "tokens", f"probe_counts/{GROUP}"}
    for name, values in shown.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [(point.step, point.value) for point in history] == list(zip((0, 25_600), values, strict=True))
