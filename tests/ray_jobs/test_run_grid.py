"""The whole program on the built-in sample: a real Ray, a real MLflow store, real kills."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import grid  # noqa: F401 - sets what Ray reads when it is imported
from benchmarks.chaos import lab
from benchmarks.chaos.lab import weights

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

GRID, CELLS = lab.GRID, lab.CELLS


def start(storage: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    storage.mkdir(exist_ok=True)
    (storage / "small.yaml").write_text(yaml.safe_dump(GRID))
    command = [sys.executable, "-m", "ray_jobs.run_grid", str(storage / "small.yaml"), f"storage={storage}"]
    return subprocess.Popen(
        [*command, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
    )


def start_until(storage: Path, text: str, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """The program, once it has printed a line with `text`."""
    process = start(storage, *overrides, **environment)
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            break
    return process


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the program and all below it."""
    for pid in descendants(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def run(storage: Path, *overrides: str, code: int = 0) -> str:
    process = start(storage, *overrides)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == code, output
    assert "Traceback" not in output
    return output


def rows(storage: Path, name: str = "small") -> list[dict[str, Any]]:
    return pq.read_table(storage / "runs" / name / "results.parquet").to_pylist()


def points(storage: Path) -> list[tuple[Any, ...]]:
    """Every point in MLflow, by its run's name."""
    with sqlite3.connect(storage / "mlflow.db") as db:
        columns = "r.name, m.key, m.step, m.timestamp - r.start_time, m.value"
        return sorted(db.execute(f"SELECT {columns} FROM metrics m JOIN runs r USING (run_uuid)"))


def without_time(all_points: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [point for point in all_points if point[1] not in ("train_seconds", "tokens_per_second")]


def descendants(pid: int) -> set[int]:
    """The process and all below it, wherever they have put their groups and sessions."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    family, size = {pid}, 0
    while len(family) > size:
        size = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()}


def test_it_finishes_forgets_and_says_where_to_look(finished):
    storage, output = finished
    results = {row["cell"]: row for row in rows(storage)}
    assert len(results) == CELLS
    assert {row["status"] for row in results.values()} == {"finished"}
    assert len(weights(storage)) == 7
    for baseline, corpus in (("sequential_ab", "food"), ("sequential_ba", "automotive")):
        plain, mixed = (results[f"{baseline}-toy-r{ratio}-none-s0"] for ratio in ("0", "0.25"))
        assert plain[f"forgetting/{corpus}"] > 0.1
        assert mixed[f"forgetting/{corpus}"] < plain[f"forgetting/{corpus}"]
        assert f"{plain[f'forgetting/{corpus}']:+.3f}" in output
    assert results["combined-toy-s0"]["interleaving_ratio"] is None
    assert "report.html" in output
    assert "mlflow server --backend-store-uri sqlite:///" in output
    assert (storage / "runs" / "small" / "report.html").stat().st_size < 6_000_000


def test_results_and_mlflow_follow_from_the_curves(finished):
    storage, _ = finished
    curves = pq.read_table(storage / "runs" / "small" / "curves.parquet").to_pylist()
    logged = points(storage)
    for row in rows(storage):
        mine = [c for c in curves if c["cell"] == row["cell"]]
        last = {c["name"]: c["value"] for c in mine if c["tokens"] == row["tokens"]}
        assert row["final_loss/food"] == last["loss/food"]
        for point in mine:
            assert (row["cell"], point["name"], point["tokens"], point["tokens"], point["value"]) in logged
        for name, value in row.items():
            if isinstance(value, float) and name != "interleaving_ratio":
                assert (row["cell"], name, row["tokens"], row["tokens"], value) in logged
    with sqlite3.connect(storage / "mlflow.db") as db:
        assert db.execute("SELECT count(*), min(status), max(status) FROM runs").fetchone() == (
            CELLS,
            "FINISHED",
            "FINISHED",
        )


def test_a_second_run_trains_nothing_and_changes_nothing(finished):
    storage, _ = finished
    before = points(storage), rows(storage), weights(storage)
    started = time.monotonic()
    output = run(storage)
    assert time.monotonic() - started < 30
    assert "all 5 cells have ended already; nothing is trained" in output
    assert (points(storage), rows(storage), weights(storage)) == before
    plan = json.loads(
        subprocess.check_output(
            [
                sys.executable,
                "-m",
                "ray_jobs.run_grid",
                str(storage / "small.yaml"),
                f"storage={storage}",
                "--plan",
                "--json",
            ]
        )
    )
    assert (plan["cells"], plan["stages"]) == (CELLS, 7)
    assert {stage["key"] for stage in plan["stage_list"] if stage["reused"]} == set(weights(storage))


@pytest.mark.slow
def test_a_deleted_stage_is_trained_again_to_the_same_bits_and_points(finished):
    storage, _ = finished
    before = points(storage), weights(storage)
    victim = rows(storage)[0]["stage_key"]
    shutil.rmtree(storage / "runs" / "stages" / victim)
    assert "training 1 of 7 stages for 1 of 5 cells" in run(storage)
    assert weights(storage) == before[1]
    assert points(storage) == before[0]


@pytest.mark.slow
def test_killed_three_times_the_end_is_the_same(finished, other):
    for moment in ("training ", "1/5 cells", "3/5 cells"):
        kill(start_until(other, moment))
    run(other)
    assert weights(other) == weights(finished[0])
    assert without_time(points(other)) == without_time(points(finished[0]))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_polite_stop_ends_in_seconds_leaves_nothing_and_the_next_run_goes_on(finished, other, number, code):
    process = start_until(other, "1/5 cells")
    family = descendants(process.pid)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to the whole group
    else:
        process.send_signal(number)
    stopped = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert time.monotonic() - stopped < 20
    assert "the same command goes on from here" in output
    assert "Traceback" not in output
    while alive(family) and time.monotonic() - stopped < 30:
        time.sleep(0.5)
    assert not alive(family)
    done = len(weights(other))
    assert 0 < done < 7
    assert f"training {7 - done} of 7 stages" in run(other)
    assert weights(other) == weights(finished[0])


@pytest.mark.slow
def test_axes_grow_under_one_name_but_definitions_do_not_change(finished, other):
    shutil.copytree(finished[0] / "runs", other / "runs")
    grown = run(other, "interleaving_ratios=[0, 0.25, 0.5]", "name=grown", "baselines=[sequential_ab]")
    assert "training 1 of 4 stages for 1 of 3 cells" in grown
    message = run(other, "tokenizer.vocab_size=400", code=2)
    assert "holds a grid with another tokenizer; allowed: the same, or another name (add name=ANOTHER)" in message


@pytest.mark.slow
def test_a_stage_that_diverges_fails_its_cells_and_nothing_else(finished, other):
    output = run(other, "stage.learning_rate=1e30", "seeds=[3]", "baselines=[sequential_ab]", "name=wild", code=1)
    results = rows(other, "wild")
    assert {row["status"] for row in results} == {"diverged"}
    assert "the loss is not a number at step" in results[0]["reason"]
    assert "diverged" in output
    again = run(other, "stage.learning_rate=1e30", "seeds=[3]", "baselines=[sequential_ab]", "name=wild", code=1)
    assert "nothing is trained" in again
    assert "to try it again, delete" in rows(other, "wild")[0]["reason"]


@pytest.mark.slow
def test_a_second_driver_on_the_same_grid_is_refused(finished, other):
    first = start_until(other, "training ")
    assert f"another program runs this grid ({socket.gethostname()}, pid {first.pid})" in run(other, code=2)
    kill(first)


@pytest.mark.slow
def test_what_the_machine_has_no_memory_for_fails_after_some_tries_with_that_reason(finished, other, monkeypatch):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")  # it has used more than that already
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    output = run(other, code=1)
    assert output.count("lost: its process, or one beside it, was killed because the machine was out of memory") >= 15
    assert {row["status"] for row in rows(other)} == {"failed"}
    assert all("out of memory" in row["reason"] for row in rows(other))
    monkeypatch.undo()
    run(other)
    assert weights(other) == weights(finished[0])


@pytest.mark.slow
def test_a_frozen_process_is_killed_and_its_cell_goes_on(finished, other):
    process = start(other, "stage.frozen_after=20")
    frozen: set[int] = set()
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "step" in line and not frozen:
            names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(process.pid)}
            frozen = {min(pid for pid, name in names.items() if "ray::ResourceTrainable" in name)}
            os.kill(*frozen, signal.SIGSTOP)
    assert process.wait(60) == 0, "".join(lines)
    assert any("lost: its process gave no sign of life, and was killed" in line for line in lines)
    assert not alive(frozen)
    assert weights(other) == weights(finished[0])
    assert without_time(points(other)) == without_time(points(finished[0]))


@pytest.mark.slow
def test_a_storage_in_a_bucket_outlives_the_machines_that_work_on_it(finished, tmp_path, bucket, monkeypatch):
    given = ["--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    kill(start_until(tmp_path, "2/5 cells", *given, f"storage={bucket}", LETHE_CACHE=str(tmp_path / "first")))
    monkeypatch.setenv("LETHE_CACHE", str(tmp_path / "second"))
    output = run(tmp_path, *given, f"storage={bucket}")
    assert "scanned" not in output, "the data lie in the bucket"
    done = 7 - int(output.split("training ")[1].split(" of 7 stages")[0])
    assert done >= 2
    (copy,) = (tmp_path / "second").iterdir()
    assert weights(copy) == weights(finished[0])
    assert len(list(copy.rglob("model.safetensors"))) < 7, "weights that nobody asked for stay there"
    monkeypatch.setenv("LETHE_CACHE", str(tmp_path / "third"))
    assert "all 5 cells have ended already" in run(tmp_path, *given, f"storage={bucket}")
    program = [sys.executable, "-m", "ray_jobs.status", str(tmp_path / "small.yaml"), f"storage={bucket}"]
    assert "5 finished" in subprocess.check_output(program, text=True)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three nodes on this machine: a head that trains nothing, and two of one CPU."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_repeats_no_finished_stage_and_ends_the_same(finished, other, cluster):
    process = start(other, RAY_ADDRESS=cluster.address)
    lines, done, lost = [], {}, False
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "1/5 cells" in line and not lost:
            lost, done = True, {path: path.stat().st_mtime_ns for path in other.rglob("stage.json")}
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    assert process.wait(60) == 0, "".join(lines)
    assert lost
    assert done
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert sum("lost: its process was lost" in line for line in lines) <= 2
    assert weights(other) == weights(finished[0])
    assert without_time(points(other)) == without_time(points(finished[0]))
