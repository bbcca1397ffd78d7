"""A small grid, the processes it starts, and what must come out of it, however it is disturbed."""

import ctypes
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

GRID: dict[str, Any] = {
    "corpora": ["food", "automotive"],
    "tokenizer": {"vocab_size": 512},
    "models": ["toy"],
    "baselines": ["sequential_ab", "sequential_ba", "combined"],
    "interleaving_ratios": [0, 0.25],
    "stage": {
        "tokens": 60_000,
        "batch": 8,
        "learning_rate": 6e-3,
        "checkpoint_every": 20,
        "evaluation": {"sequences": 32, "marks": 8},
    },
}
CELLS, STAGES = 5, 7
# The same with two ranks a cell, and fewer cells, for what can happen to a rank can happen in any of them.
TWO_RANKS = ("resources.default.workers=2", "baselines=[sequential_ab, combined]", "interleaving_ratios=[0]")
HOOKS = Path(__file__).with_name("hooks")
# Measured again when a stage is trained again: nobody expects the same.
TIMES = ("train_seconds", "tokens_per_second", "mfu")
PR_SET_CHILD_SUBREAPER = 36


def _hear_ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Program:
    """A running program, its output, and all processes below it."""

    def __init__(self, arguments: list[str], output: Path, environment: Mapping[str, str]) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans come to us, so that none can hide
        self.output, self.others = output, family()
        # Short, for sockets lie in it, whose paths have 107 characters at most.
        self.ray = tempfile.mkdtemp(prefix="ray")
        paths = os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])])
        given = {**os.environ, "RAY_TMPDIR": self.ray, "PYTHONPATH": paths, **environment}
        with output.open("wb") as file:
            command = [sys.executable, "-m", *arguments]
            self.process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=given,
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,
            )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, condition: Callable[[], Any], seconds: float = 300) -> bool:
        """Until the condition holds (True), or the program ends or the time is over (False)."""
        until = time.monotonic() + seconds
        while self.runs and time.monotonic() < until:
            if condition():
                return True
            time.sleep(0.01)
        return False

    def end(self, seconds: float = 600) -> int:
        """Wait for the program, and for all that it has left behind; its exit code."""
        code = self.process.wait(seconds)
        self.leaves_nothing(30)
        self.kill()
        return code

    def leaves_nothing(self, seconds: float) -> bool:
        """Wait until no process of it is there any more; False where one still is after so long."""
        until = time.monotonic() + seconds
        while self.family() and time.monotonic() < until:
            time.sleep(0.05)
        return not self.family()

    def kill(self) -> None:
        """SIGKILL to the program and all below it; they are gone when this returns."""
        while left := self.family():
            for pid in left:
                signal_to(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        shutil.rmtree(self.ray, ignore_errors=True)

    def family(self) -> set[int]:
        return family() - self.others or family() - self.others  # a look misses whose parent is just ending

    def named(self, *parts: str) -> list[int]:
        """The processes below the program whose command line holds one of the texts, the oldest first."""
        return sorted(pid for pid in self.family() if any(part in command(pid) for part in parts))


def wait_for_cells(program: Program, cells: int = 1) -> None:
    """Until so many cells of the grid have ended; AssertionError if the program ends before, or takes too long."""
    assert program.wait_for(lambda: f"{cells}/{CELLS} cells" in program.text), program.text


def signal_to(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def family() -> set[int]:
    """The living processes below this one, wherever they have put their groups and sessions."""
    children: dict[int, list[int]] = {}
    dead = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
            dead |= {int(stat.parent.name)} if state in "ZX" else set()
    found, new = set(), [os.getpid()]
    while new:
        new = [child for pid in new for child in children.get(pid, ())]
        found.update(new)
    return found - dead


@dataclass
class Verdict:
    """How a disturbed grid differs from the undisturbed one; empty lists and zeros where it does not."""

    differences: list[str] = field(default_factory=list)
    doubled_points: int = 0
    lost_points: int = 0


@dataclass
class Lab:
    """A folder with the data of the grid, the undisturbed run, and one storage after the other to disturb."""

    root: Path
    outage: float = 60
    """Seconds for which what the grid needs is away."""
    started: list[Program] = field(default_factory=list)

    @cached_property
    def calm(self) -> Path:
        """The storage of the undisturbed run."""
        storage = self.root / "calm"
        if not (storage / "runs" / "grid" / "report.html").exists():
            self.finish(storage)
        return storage

    @cached_property
    def calm_ranks(self) -> Path:
        """The storage of the undisturbed run with two ranks a cell."""
        storage = self.fresh("calm-ranks")
        self.finish(storage, *TWO_RANKS)
        return storage

    def fresh(self, name: str) -> Path:
        """An empty storage on the same data."""
        storage = self.root / name
        shutil.rmtree(storage, ignore_errors=True)
        storage.mkdir()
        (storage / "data").symlink_to(self.calm / "data")
        return storage

    def write_config(self, storage: Path, comment: str = "") -> Path:
        """The grid's YAML in the storage; one that lies there stays."""
        storage.mkdir(exist_ok=True)
        config = storage / "grid.yaml"
        if not config.exists():
            config.write_text(f"{comment}\n{yaml.safe_dump(GRID)}")
        return config

    def start(self, storage: Path, *overrides: str, program: str = "run_grid", **environment: str) -> Program:
        config = self.write_config(storage)
        environment = {"CHAOS_TRACE": str(storage / "trace.txt")} | environment
        arguments = [f"ray_jobs.{program}", str(config), f"storage={storage}", *overrides]
        self.started.append(Program(arguments, storage / f"output-{time.monotonic_ns()}.txt", environment))
        return self.started[-1]

    def kill_all(self) -> None:
        """What still runs of all that was started, as where a fault was not survived."""
        while self.started:
            self.started.pop().kill()

    def finish(self, storage: Path, *overrides: str, **environment: str) -> str:
        """The same command again, to its end; what it printed. Raises RuntimeError where it fails."""
        program = self.start(storage, *overrides, **environment)
        if (code := program.end()) != 0:
            raise RuntimeError(f"exit code {code}:\n{program.text[-3000:]}")
        return program.text

    def compare(self, storage: Path, calm: Path | None = None) -> Verdict:
        """Weights, results and MLflow's points against those of the undisturbed run, or of another that was."""
        differences, calm = [], calm or self.calm
        for name, read in (("weights", weights), ("results", results), ("curves", curves)):
            if read(storage) != read(calm):
                differences.append(f"{name} differ")
        if temporary := [path for path in (storage / "runs" / "stages").rglob(".*") if path.is_file()]:
            differences.append(f"left over: {', '.join(path.name for path in temporary)}")
        found, wanted = Counter(points(storage)), Counter(points(calm))
        doubled = sum(n - 1 for n in Counter(point[:3] for point in found.elements()).values())
        lost = len(wanted.keys() - found.keys())
        if found.keys() - wanted.keys():
            differences.append(f"{len(found.keys() - wanted.keys())} points in MLflow that are no others'")
        differences += [f"{n} points in MLflow {what}" for n, what in ((doubled, "doubled"), (lost, "lost")) if n]
        if (steps := lost_steps(storage)) > GRID["stage"]["checkpoint_every"]:
            differences.append(f"{steps} steps trained again")
        return Verdict(differences, doubled, lost)


def weights(storage: Path) -> dict[str, str]:
    records = [json.loads(path.read_text()) for path in (storage / "runs" / "stages").glob("*/stage.json")]
    return {record["key"]: record["files"]["model.safetensors"] for record in records}


def results(storage: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(storage / "runs" / "grid" / "results.parquet").to_pylist()
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def curves(storage: Path) -> list[tuple[Any, ...]]:
    rows = pq.read_table(storage / "runs" / "grid" / "curves.parquet").to_pylist()
    return [tuple(row[name] for name in ("cell", "stage", "tokens", "name", "value")) for row in rows]


def points(storage: Path) -> list[tuple[Any, ...]]:
    """Every point in MLflow: run, metric, step, value, and when it says it was made."""
    query = (
        "SELECT r.name, m.key, m.step, m.value, m.timestamp - r.start_time FROM metrics m JOIN runs r USING (run_uuid)"
    )
    query += " WHERE r.lifecycle_stage = 'active'"
    with sqlite3.connect(storage / "mlflow.db") as db:
        return [point for point in db.execute(query) if point[1] not in TIMES]


def lost_steps(storage: Path) -> int:
    """The most steps of a stage that were trained again after one disturbance, by the trace."""
    last: dict[str, int] = {}
    most = 0
    for line in lines(storage / "trace.txt"):
        key, step = line.split()
        most = max(most, last.get(key, -1) + 1 - int(step))
        last[key] = int(step)
    return most


def lines(path: Path) -> Iterable[str]:
    return path.read_text().splitlines() if path.exists() else ()
