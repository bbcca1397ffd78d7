"""MLflow, spoken to by the driver alone: one experiment a grid, one flat run a cell, and writing twice changes nothing.

A run is found again by its cell's tag. A point's timestamp is the start of the run's record plus the tokens seen (as
milliseconds), so a point sent again is the same point, which MLflow keeps once.
"""

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from grid.cells import Cell
from grid.spec import Grid
from lethe.config import UserError

STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "stopped": "KILLED"}
# Wall time differs between two trainings of one stage: the first record stands, a second would be a doubled point.
MEASURED_ONCE = {"train_seconds", "tokens_per_second"}
# Curves that other figures are made from, a branch's too; they stay in curves.parquet.
NOT_SHOWN = ("probe_accuracy_byte/", "probe_margin_sd/")


class Tracker:
    """The grid's experiment at a tracking URI; creates store and experiment where they are missing."""

    def __init__(self, uri: str, grid: Grid, description: str) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every migration of a new store
        self.uri, self.grid = uri, grid
        try:
            self.client = MlflowClient(uri)
            self.experiment = self._experiment()
            note = f"```\n{description}\n```"
            self.client.set_experiment_tag(self.experiment, "mlflow.note.content", note)
        except MlflowException as error:
            allowed = "allowed: sqlite:///ABSOLUTE/PATH.db or the address of an MLflow server"
            raise UserError(f"tracking URI: found {uri!r}, which cannot be used: {error.message}; {allowed}") from None

    def _experiment(self) -> str:
        """The id of the experiment of the grid's name."""
        experiment = self.client.get_experiment_by_name(self.grid.name)
        if experiment is not None:
            return str(experiment.experiment_id)
        artifacts = (self.grid.folder / "mlflow").as_uri() if self.uri.startswith("sqlite:") else None
        return str(self.client.create_experiment(self.grid.name, artifact_location=artifacts))

    def log(self, cell: Cell, row: dict[str, Any], curve: pa.Table | None) -> None:
        """Write a cell's coordinates, curve, final metrics and resolved config to its run."""
        from mlflow.entities import Metric, Param

        run = self._run(cell)
        coordinates = ("baseline", "model", "interleaving_ratio", "intervention", "seed")
        params = [Param(name, str(row[name])) for name in coordinates if row[name] is not None]
        start, have = run.info.start_time, run.data.metrics
        points = (
            [
                (name, value, tokens)
                for tokens, name, value in zip(
                    *(curve[c].to_pylist() for c in ("tokens", "name", "value")), strict=True
                )
                if not any(helper in name for helper in NOT_SHOWN)
            ]
            if curve is not None
            else []
        )
        last = int(row.get("tokens") or 0)
        not_metrics = {
            *coordinates,
            "cell",
            "intervention_kind",
            "intervention_config",
            "status",
            "reason",
            "stage_key",
            "needs",
            "budget",
        }
        points += [
            (name, value, last)
            for name, value in row.items()
            if name not in not_metrics and value is not None and not (name in MEASURED_ONCE and name in have)
        ]
        metrics = [Metric(name, float(value), start + step, step) for name, value, step in points]
        for i in range(0, max(len(metrics), 1), 1000):  # a batch's limit
            self.client.log_batch(run.info.run_id, metrics[i : i + 1000], params if i == 0 else [])
        self._describe(run.info.run_id, cell, row)

    def _run(self, cell: Cell) -> Any:
        found = self.client.search_runs([self.experiment], f"tags.`lethe.cell` = '{cell.name}'", max_results=1)
        if found:
            return found[0]
        return self.client.create_run(self.experiment, run_name=cell.name, tags={"lethe.cell": cell.name})

    def _describe(self, run_id: str, cell: Cell, row: dict[str, Any]) -> None:
        for tag in ("stage_key", "status", "reason", "intervention_kind", "intervention_config", "needs", "budget"):
            if row[tag] is not None:
                self.client.set_tag(run_id, f"lethe.{tag}", row[tag])
        stages = [stage.model_dump(mode="json", exclude={"parent", "reads"}) for stage in cell.stages]
        config = {"stages": stages, "grid": self.grid.model_dump(mode="json", exclude={"storage"})}
        self.client.log_text(run_id, json.dumps(config, indent=1), "config.json")
        self.client.set_terminated(run_id, STATUS[row["status"]])

    def where_to_look(self) -> str:
        """How to open these runs in a browser: a command where the store is a file, and the page."""
        page = f"/#/experiments/{self.experiment}/runs"
        if not self.uri.startswith("sqlite:"):
            return f"{self.uri}{page}"
        mlflow = "mlflow" if shutil.which("mlflow") else os.path.relpath(Path(sys.executable).with_name("mlflow"))
        server = f"{mlflow} server --backend-store-uri {self.uri} --workers 1 --port 5000"
        return f"{server}\n        http://127.0.0.1:5000{page}"


def tracking_uri(given: str | None, storage: Path) -> str:
    """The flag, else MLFLOW_TRACKING_URI, else a SQLite file in the storage."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage / 'mlflow.db'}"
