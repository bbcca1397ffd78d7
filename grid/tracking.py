"""MLflow, spoken to by the driver alone: one experiment a grid, one flat run a cell, and writing twice changes nothing.

All that is sent lies on disk before: it follows from the stage store, of a cell that is being trained from its
checkpoints. So a server that is away loses nothing; what it did not take while the grid ran is sent when it is back, or
by the same command later. A run is found again by its
cell's tag, and another tag tells what it holds. A point's timestamp is the start of the run's record plus the tokens
seen (as milliseconds), so a point sent again is the same point, which MLflow keeps once.
"""

import json
import logging
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from filelock import FileLock

from grid.cells import Cell
from grid.outbox import Outbox, first_line
from grid.spec import Grid
from lethe.config import UserError
from lethe.files import fingerprint
from lethe.progress import say
from lethe.version import commit

STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "stopped": "KILLED"}
COORDINATES = ("baseline", "model", "interleaving_ratio", "intervention", "seed")
TAGS = ("stage_key", "status", "reason", "intervention_kind", "intervention_config", "needs", "budget")
# Wall time differs between two trainings of one stage: the first record stands, a second would be a doubled point.
MEASURED_ONCE = {"train_seconds", "tokens_per_second"}
# Curves that other figures are made from, a branch's too; they stay in curves.parquet.
NOT_SHOWN = ("probe_accuracy_byte/", "probe_margin_sd/")
NOTE_CHARACTERS = 19_000  # an experiment's tag takes 20,000
TAG_CHARACTERS = 5_000  # a run's takes 8,000
VIEW = "lethe"  # the name under which the pages find the columns to show
BATCH = 800  # points; one call takes 1000 points, params and tags
PAGE = 1000  # runs
HOLDS = "lethe.sent"  # the tag that tells which letter a run holds
LIVE_EVERY = 30.0  # seconds between two letters about a cell that is being trained
SILENCE = 15.0  # seconds of waiting for the first answer after which people are told
PATIENCE = 900.0  # seconds, for a server that is away when all else is done


@dataclass(frozen=True)
class Letter:
    """All that a cell's run is to hold. `points` are (name, value, tokens)."""

    cell: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    points: list[tuple[str, float, int]]
    config: str

    @property
    def digest(self) -> str:
        """Of what is the same whenever it is measured."""
        points = [point for point in self.points if point[0] not in MEASURED_ONCE]
        return fingerprint(asdict(self) | {"points": points})


def letter(grid: Grid, cell: Cell, row: Mapping[str, Any], curve: pa.Table | None) -> Letter:
    """A cell's coordinates, curve (schema CELL_CURVE), metrics and resolved config."""
    points = []
    if curve is not None:
        columns = (curve[name].to_pylist() for name in ("name", "value", "tokens"))
        points = [point for point in zip(*columns, strict=True) if not any(part in point[0] for part in NOT_SHOWN)]
    metrics = []
    if row["status"] == "finished":  # else it would be at another step, should the cell be finished later
        others, last = {*COORDINATES, *TAGS, "cell"}, int(row.get("tokens") or 0)
        metrics = [(name, float(v), last) for name, v in row.items() if name not in others and v is not None]
    stages = [stage.model_dump(mode="json", exclude={"parent", "reads"}) for stage in cell.stages]
    config = {"stages": stages, "grid": grid.model_dump(mode="json", exclude={"storage", "bucket"})}
    return Letter(
        cell=cell.name,
        status=row["status"],
        params={name: str(row[name]) for name in COORDINATES if row[name] is not None},
        tags={f"lethe.{name}": str(row[name])[:TAG_CHARACTERS] for name in TAGS if row[name] is not None},
        points=points + metrics,
        config=json.dumps(config, indent=1),
    )


@dataclass
class Run:
    """What a run in MLflow holds, as far as it decides what is sent: the digest of a letter, and what is measured once.

    `start` is in milliseconds.
    """

    id: str
    start: int
    status: str
    holds: str | None
    measured: set[str]
    has_inputs: bool

    @classmethod
    def of(cls, run: Any) -> "Run":
        """From MLflow's."""
        holds, measured = run.data.tags.get(HOLDS), MEASURED_ONCE & run.data.metrics.keys()
        has_inputs = bool(run.inputs and run.inputs.dataset_inputs)
        return cls(run.info.run_id, run.info.start_time, run.info.status, holds, measured, has_inputs)


class Tracker:
    """The grid's experiment at a tracking URI; creates store and experiment where they are missing.

    `data_sets` are the fingerprints of the corpora, by name. Raises UserError if the store cannot be used.
    """

    def __init__(self, uri: str, grid: Grid, description: str, data_sets: Mapping[str, str]) -> None:
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it tells of migrations, and of each error with a story
        self.uri, self.grid, self.data_sets = uri, grid, data_sets
        check(uri)
        waits = threading.Timer(SILENCE, say, [f"MLflow at {masked(uri)} has not answered for {SILENCE:g} s: waiting"])
        waits.start()
        try:
            with _alone(uri):
                self.client = MlflowClient(uri)
                self.experiment = self._experiment()
            self.client.set_experiment_tag(self.experiment, "mlflow.note.content", note(description))
            self.client.set_experiment_tag(self.experiment, f"mlflow.sharedViewState.{VIEW}", view(grid))
        except UserError:
            raise
        except Exception as error:  # MLflow's own, SQLAlchemy's, the network's
            raise _unusable(uri, error) from None
        finally:
            waits.cancel()
        self.outbox = Outbox[Letter]("MLflow", self.send)
        self._told: dict[str, float] = {}
        self._runs: dict[str, Run] | None = None
        self._sent: dict[str, int] = {}

    def _experiment(self) -> str:
        """The id of the experiment of the grid's name."""
        experiment = self.client.get_experiment_by_name(self.grid.name)
        if experiment is None:
            artifacts = (self.grid.folder / "mlflow").as_uri() if self.uri.startswith("sqlite:") else None
            return str(self.client.create_experiment(self.grid.name, artifact_location=artifacts))
        if experiment.lifecycle_stage == "deleted":
            raise UserError(
                f"MLflow: experiment {self.grid.name!r} is deleted; allowed: one that is not (restore it with mlflow "
                f"experiments restore --experiment-id {experiment.experiment_id}), or another name (add name=ANOTHER)"
            )
        return str(experiment.experiment_id)

    def log(self, cell: Cell, row: Mapping[str, Any], curve: pa.Table | None) -> None:
        """Have a cell's run written, in the background."""
        self.outbox.put(cell.name, letter(self.grid, cell, row, curve))

    def follow(self, cell: Cell, look: Callable[[], tuple[Mapping[str, Any], pa.Table]]) -> None:
        """Have what is known of a cell that is being trained written, now and then; `look` gives its row and curve."""
        if time.monotonic() - self._told.setdefault(cell.name, time.monotonic()) > LIVE_EVERY:
            self._told[cell.name] = time.monotonic()
            self.log(cell, *look())

    def close(self, patience: float = PATIENCE) -> str | None:
        """Wait until all is sent; why some of it is not when the patience (in seconds) ends, else None."""
        unsent = self.outbox.close(patience)
        return f"{len(unsent)} runs are not in MLflow: {masked(self.outbox.problem or 'too slow')}" if unsent else None

    def send(self, letter: Letter) -> None:
        """Write a cell's run now; does nothing where the run holds just that. Raises what MLflow's client raises."""
        try:
            self._send(letter, self._run(letter.cell))
        except Exception:
            self._runs = None  # an answer may be lost: what the store holds is asked again
            raise

    def _send(self, letter: Letter, run: Run) -> None:
        from mlflow.entities import Metric, Param, RunTag

        status = STATUS.get(letter.status, "RUNNING")
        if run.holds == letter.digest and run.status == status:
            return
        points = [point for point in letter.points if point[0] not in run.measured]
        if letter.status not in STATUS:  # a curve that grows at its end
            points = points[self._sent.get(letter.cell, 0) :]
            self._sent[letter.cell] = len(letter.points)
        else:
            self.client.log_text(run.id, letter.config, "config.json")
        metrics = [Metric(name, value, run.start + tokens, tokens) for name, value, tokens in points]
        while len(metrics) > BATCH:
            self.client.log_batch(run.id, metrics[:BATCH])
            metrics = metrics[BATCH:]
        params = [Param(name, value) for name, value in letter.params.items()]
        tags = [RunTag(name, value) for name, value in (letter.tags | _versions()).items()]
        self.client.log_batch(run.id, metrics, params, [*tags, RunTag(HOLDS, letter.digest)])
        if status != run.status:
            end = self.client.set_terminated if letter.status in STATUS else self.client.update_run
            end(run.id, status)
        run.holds, run.status = letter.digest, status
        run.measured |= MEASURED_ONCE & {name for name, _, _ in points}

    def _run(self, cell: str) -> Run:
        """The cell's run, made where there is none; all are asked for once."""
        if self._runs is None:
            self._runs, self._sent = self._find_runs(), {}
        if cell not in self._runs:
            made = self.client.create_run(self.experiment, run_name=cell, tags={"lethe.cell": cell})
            self._runs[cell] = Run.of(made)
        run = self._runs[cell]
        if not run.has_inputs:
            self.client.log_inputs(run.id, [_input(name, digest) for name, digest in self.data_sets.items()])
            run.has_inputs = True
        return run

    def _find_runs(self) -> dict[str, Run]:
        """The experiment's runs by cell; where an answer was lost and a cell has two, the first."""
        found: dict[str, Run] = {}
        doubles: list[str] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], order_by=["attributes.start_time"], max_results=PAGE, page_token=token
            )
            for run in page:
                cell = run.data.tags.get("lethe.cell")
                if cell in found:
                    doubles.append(run.info.run_id)
                elif cell:
                    found[cell] = Run.of(run)
            token = page.token
            if not token:
                break
        for run_id in doubles:  # not earlier: it would move the pages
            self.client.delete_run(run_id)
        return found

    def where_to_look(self) -> str:
        """How to open these runs in a browser: a command where the store is a file, and the page."""
        page = f"/#/experiments/{self.experiment}/runs?viewStateShareKey={VIEW}"
        if not self.uri.startswith("sqlite:"):
            return f"{masked(self.uri, '').rstrip('/')}{page}"
        mlflow = "mlflow" if shutil.which("mlflow") else os.path.relpath(Path(sys.executable).with_name("mlflow"))
        server = f"{mlflow} server --backend-store-uri {masked(self.uri)} --workers 1 --port 5000"
        return f"{server}\n        http://127.0.0.1:5000{page}"


def check(uri: str) -> None:
    """Find out soon whether there is a server at all; raises UserError where there is none."""
    address = urlsplit(uri)
    if address.scheme in ("http", "https"):
        try:
            port = address.port or {"http": 80, "https": 443}[address.scheme]
            socket.create_connection((address.hostname, port), timeout=10).close()
        except (OSError, ValueError) as error:
            raise _unusable(uri, error) from None


def _unusable(uri: str, error: Exception) -> UserError:
    allowed = "sqlite:///ABSOLUTE/PATH.db or the address of an MLflow server"
    found = f"found {masked(uri)!r}, which cannot be used: {masked(first_line(error))}"
    return UserError(f"tracking URI: {found}; allowed: {allowed}")


def _alone(uri: str) -> AbstractContextManager[Any]:
    """One driver after the other makes the tables of a SQLite file, for of several at once MLflow lets most fail."""
    path = uri.removeprefix("sqlite:///")
    if path == uri or not Path(path).parent.is_dir():
        return nullcontext()
    return FileLock(f"{path}.lock")


def _input(corpus: str, digest: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput

    return DatasetInput(Dataset(corpus, digest[:36], "local", json.dumps({"uri": f"data/corpora/{corpus}"})))


def _versions() -> dict[str, str]:
    """What the driver runs: versions of packages, and the commit where this is a git checkout."""
    found = {f"lethe.version.{name}": version(name) for name in ("lethe", "torch", "ray", "mlflow")}
    return found | ({"mlflow.source.git.commit": known} if (known := commit()) else {})


def note(description: str) -> str:
    """The description as an experiment's note shows it; of one that is too long for that, the first lines."""
    lines = description.splitlines()
    whole = len(lines)
    while len(text := "\n".join(lines)) > NOTE_CHARACTERS:
        lines = lines[: len(lines) * 9 // 10]
    rest = "" if len(lines) == whole else f"\n... and {whole - len(lines)} lines more: plan.json has all"
    return f"```\n{text}{rest}\n```"


def view(grid: Grid) -> str:
    """What MLflow's table of runs shows first, as its own pages keep a view that somebody shares."""
    metrics = [f"{name}/{corpus}" for corpus in grid.corpora for name in ("forgetting", "final_loss")]
    columns = [f"params.`{name}`" for name in COORDINATES] + [f"metrics.`{name}`" for name in metrics]
    return json.dumps({"selectedColumns": columns})


def masked(text: str, by: str = "***@") -> str:
    """The text without user names and passwords of addresses in it."""
    return re.sub(r"(?<=://)[^/@\s]*@", by, text)


def tracking_uri(given: str | None, grid: Grid) -> str:
    """The flag, else MLFLOW_TRACKING_URI, else a SQLite file in the storage; UserError where that lies in a bucket."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and grid.bucket:
        raise UserError(
            f"tracking URI: found none with storage {grid.bucket}; allowed: --tracking-uri or MLFLOW_TRACKING_URI, for "
            "in a bucket there is no database"
        )
    return uri or f"sqlite:///{grid.storage / 'mlflow.db'}"
