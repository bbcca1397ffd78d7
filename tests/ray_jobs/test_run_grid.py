"""The whole program on the built-in sample: a real Ray, a real MLflow store, real kills."""

import json
import os
import shutil
import signal
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

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

GRID = {
    "corpora": ["food", "automotive"],
    "tokenizer": {"vocab_size": 512},
    "models": ["toy"],
    "baselines": ["sequential_ab", "sequential_ba", "combined"],
    "interleaving_ratios": [0, 0.25],
    "stage": {
        "tokens": 100_000,
        "batch": 8,
        "learning_rate": 6e-3,
        "checkpoint_every": 20,
        "evaluation": {"sequences": 32, "marks": 8},
    },
}
CELLS = 5


def start(storage: Path, *overrides: str) -> subprocess.Popen[str]:
    storage.mkdir(exist_ok=True)
    (storage / "small.yaml").write_text(yaml.safe_dump(GRID))
    command = [sys.executable, "-m", "ray_jobs.run_grid", str(storage / "small.yaml"), f"storage={storage}"]
    return subprocess.Popen(
        [*command, *overrides], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def start_until(storage: Path, text: str) -> subprocess.Popen[str]:
    """The program, once it has printed a line with `text`."""
    process = start(storage)
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


def weights(storage: Path) -> dict[str, str]:
    records = [json.loads(path.read_text()) for path in (storage / "runs" / "stages").glob("*/stage.json")]
    return {record["key"]: record["files"]["model.safetensors"] for record in records}


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A storage with the finished grid, and what the program printed."""
    storage = tmp_path_factory.mktemp("finished")
    return storage, run(storage)


@pytest.fixture
def other(finished: tuple[Path, str], tmp_path: Path) -> Iterator[Path]:
    """Another storage on the same data, without any stage."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(finished[0] / "data")
    yield tmp_path / "other"
    shutil.rmtree(tmp_path / "other")


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
    assert "all 5 cells are finished already; nothing is trained" in output
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
def test_ctrl_c_ends_in_seconds_leaves_nothing_and_the_next_run_goes_on(finished, other):
    process = start_until(other, "1/5 cells")
    family = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    stopped = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
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
def test_axes_grow_under_one_name_but_definitions_do_not_change(finished):
    storage, _ = finished
    grown = run(storage, "interleaving_ratios=[0, 0.25, 0.5]", "name=grown", "baselines=[sequential_ab]")
    assert "training 1 of 4 stages for 1 of 3 cells" in grown
    message = run(storage, "tokenizer.vocab_size=400", code=2)
    assert "holds a grid with another tokenizer; allowed: the same, or another name (add name=ANOTHER)" in message


@pytest.mark.slow
def test_a_stage_that_diverges_fails_its_cells_and_nothing_else(finished, other):
    output = run(other, "stage.learning_rate=1e30", "seeds=[3]", "baselines=[sequential_ab]", "name=wild", code=1)
    results = rows(other, "wild")
    assert {row["status"] for row in results} == {"diverged"}
    assert "the loss is not a number at step" in results[0]["reason"]
    assert "diverged" in output


@pytest.mark.slow
def test_a_second_driver_on_the_same_grid_is_refused(finished, other):
    first = start_until(other, "training ")
    assert "another program runs this grid" in run(other, code=2)
    kill(first)
