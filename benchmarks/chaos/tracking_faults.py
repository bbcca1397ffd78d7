"""What goes wrong with MLflow while a grid runs: away, slow, full, locked, or made by many at once."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.chaos.faults import fault, under_way
from benchmarks.chaos.lab import CELLS, Lab, free_port, wait_for_cells
from benchmarks.chaos.proxy import Proxy

SLOW = 30.0  # seconds a call
PROCESSES = 16
# What every driver does with a store that may be new; all that does not need it is done before the signal to go.
CONNECT = """
import sys, time
from pathlib import Path
import mlflow
from grid.spec import load_grid
from grid.tracking import Tracker
folder, number = Path(sys.argv[1]), sys.argv[2]
grid = load_grid(folder / "grid.yaml", [f"storage={folder}", f"name=grid{number}"])
(folder / f"ready{number}").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
Tracker(f"sqlite:///{folder / 'mlflow.db'}", grid, "", {})
"""


@contextmanager
def tracking_server(storage: Path, port: int) -> Iterator[str]:
    """A real one on the storage's own mlflow.db."""
    uri = f"http://127.0.0.1:{port}"
    arguments = ["server", "--backend-store-uri", f"sqlite:///{storage / 'mlflow.db'}"]
    arguments += ["--port", str(port), "--workers", "1", "--artifacts-destination", str(storage / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (storage / "server.txt").open("ab") as log:
        command = [str(Path(sys.executable).with_name("mlflow")), *arguments]
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()  # noqa: S310
                break
            time.sleep(0.5)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@fault
def mlflow_away_at_the_start(lab: Lab) -> None:
    storage, started = lab.fresh("away"), time.monotonic()
    program = lab.start(storage, "--tracking-uri", f"http://me:secret@127.0.0.1:{free_port()}")
    assert program.end() == 2, program.text
    assert time.monotonic() - started < 30
    assert "tracking URI: found" in program.text
    assert "secret" not in program.text


@fault
def mlflow_away_for_a_while(lab: Lab) -> Path:
    storage, port = lab.fresh("outage"), free_port()
    with tracking_server(storage, port) as uri:
        program = lab.start(storage, "--tracking-uri", uri)
        wait_for_cells(program)
    program.wait_for(lambda: False, lab.outage)
    with tracking_server(storage, port):
        program.process.wait(600)
    assert program.end() == 0, program.text  # not within: it would end the server too, which began later
    return storage


def behind_a_proxy(lab: Lab, name: str, disturb: Callable[[Proxy], None]) -> Path:
    """MLflow is disturbed from the first cell's end until all are trained: training must get there meanwhile."""
    storage = lab.fresh(name)
    with tracking_server(storage, free_port()) as uri, Proxy(uri) as proxy:
        program = lab.start(storage, "--tracking-uri", proxy.uri)
        wait_for_cells(program)
        disturb(proxy)
        wait_for_cells(program, CELLS)
        assert proxy.disturbed, "nothing was asked of MLflow meanwhile"
        proxy.calm_down()
        assert program.end() == 0, program.text
    assert "Traceback" not in program.text, program.text
    return storage


@fault
def mlflow_takes_long(lab: Lab) -> Path:
    return behind_a_proxy(lab, "slow", lambda proxy: proxy.take(SLOW))


@fault
def mlflow_answers_500(lab: Lab) -> Path:
    """Half of what is asked is done all the same, so that what is asked again must not be doubled."""
    return behind_a_proxy(lab, "500", lambda proxy: proxy.refuse())


@fault
def mlflow_database_locked(lab: Lab) -> Path:
    storage, program = under_way(lab, "locked")
    with sqlite3.connect(storage / "mlflow.db", timeout=60, isolation_level=None) as db:
        db.execute("BEGIN EXCLUSIVE")
        time.sleep(lab.outage)
        db.execute("ROLLBACK")
    assert program.end() == 0, program.text
    assert "Traceback" not in program.text, program.text
    return storage


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, which root alone may mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "chaos", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, f"a disk that becomes full needs root: {mounted.stderr}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is free."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


@fault
def mlflow_database_full(lab: Lab) -> Path:
    storage = lab.fresh("full")
    with small_disk(storage / "disk") as disk:
        at = ("--tracking-uri", f"sqlite:///{disk / 'mlflow.db'}")
        program = lab.start(storage, *at, CHAOS_PATIENCE="5")
        wait_for_cells(program)
        filler = fill(disk)
        assert program.end() == 1, program.text
        assert f"{CELLS}/{CELLS} cells" in program.text, program.text
        assert "runs are not in MLflow: " in program.text, program.text
        assert "full; the same command sends them" in program.text, program.text
        assert "Traceback" not in program.text, program.text
        filler.unlink()
        assert "nothing is trained" in lab.finish(storage, *at)
        shutil.copy(disk / "mlflow.db", storage)
    return storage


@fault
def many_on_a_fresh_database(lab: Lab) -> None:
    storage = lab.fresh("many")
    lab.write_config(storage)
    arguments = [sys.executable, "-c", CONNECT, str(storage)]
    programs = [
        subprocess.Popen([*arguments, str(i)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for i in range(PROCESSES)
    ]
    try:
        until = time.monotonic() + 600
        while len(list(storage.glob("ready*"))) < PROCESSES and time.monotonic() < until:
            assert all(program.poll() is None for program in programs), "one ended before it was to begin"
            time.sleep(0.1)
        (storage / "go").touch()
        errors = [program.communicate(timeout=300)[1] for program in programs]
    finally:
        for program in programs:
            program.kill()
    wrong = [error for error, program in zip(errors, programs, strict=True) if program.returncode]
    assert not wrong, f"{len(wrong)} of {PROCESSES} failed: {wrong[0][-600:]}"
    with sqlite3.connect(storage / "mlflow.db") as db:
        names = [name for (name,) in db.execute("SELECT name FROM experiments WHERE name LIKE 'grid%'")]
    assert len(names) == len(set(names)) == PROCESSES, names
