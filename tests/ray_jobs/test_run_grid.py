"""The whole program on the built-in sample: a real Ray, a real MLflow store. What happens to it: benchmarks.chaos."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.chaos.lab import CELLS, STAGES, Lab, wait_for_cells, weights

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def run(lab: Lab, storage: Path, *overrides: str, code: int = 0, **environment: str) -> str:
    program = lab.start(storage, *overrides, **environment)
    assert program.end() == code, program.text
    assert "Traceback" not in program.text
    return program.text


def rows(storage: Path) -> list[dict[str, Any]]:
    return pq.read_table(storage / "runs" / "grid" / "results.parquet").to_pylist()


def points(storage: Path) -> list[tuple[Any, ...]]:
    """Every point in MLflow, by its run's name."""
    with sqlite3.connect(storage / "mlflow.db") as db:
        columns = "r.name, m.key, m.step, m.timestamp - r.start_time, m.value"
        return sorted(db.execute(f"SELECT {columns} FROM metrics m JOIN runs r USING (run_uuid)"))


def test_it_finishes_forgets_and_says_where_to_look(lab):
    (output,) = (path.read_text() for path in sorted(lab.calm.glob("output-*.txt"))[:1])
    assert "Traceback" not in output
    results = {row["cell"]: row for row in rows(lab.calm)}
    assert len(results) == CELLS
    assert {row["status"] for row in results.values()} == {"finished"}
    assert len(weights(lab.calm)) == STAGES
    for baseline, corpus in (("sequential_ab", "food"), ("sequential_ba", "automotive")):
        plain, mixed = (results[f"{baseline}-toy-r{ratio}-none-s0"] for ratio in ("0", "0.25"))
        assert plain[f"forgetting/{corpus}"] > 0.1
        assert mixed[f"forgetting/{corpus}"] < plain[f"forgetting/{corpus}"]
        assert f"{plain[f'forgetting/{corpus}']:+.3f}" in output
    assert results["combined-toy-s0"]["interleaving_ratio"] is None
    assert "report.html" in output
    assert "mlflow server --backend-store-uri sqlite:///" in output
    assert (lab.calm / "runs" / "grid" / "report.html").stat().st_size < 6_000_000


def test_results_and_mlflow_follow_from_the_curves(lab):
    curves = pq.read_table(lab.calm / "runs" / "grid" / "curves.parquet").to_pylist()
    logged = points(lab.calm)
    for row in rows(lab.calm):
        mine = [c for c in curves if c["cell"] == row["cell"]]
        last = {c["name"]: c["value"] for c in mine if c["tokens"] == row["tokens"]}
        assert row["final_loss/food"] == last["loss/food"]
        for point in mine:
            assert (row["cell"], point["name"], point["tokens"], point["tokens"], point["value"]) in logged
        for name, value in row.items():
            if isinstance(value, float) and name != "interleaving_ratio":
                assert (row["cell"], name, row["tokens"], row["tokens"], value) in logged
    with sqlite3.connect(lab.calm / "mlflow.db") as db:
        found = db.execute("SELECT count(*), min(status), max(status) FROM runs").fetchone()
    assert found == (CELLS, "FINISHED", "FINISHED")


def test_a_second_run_trains_nothing_and_changes_nothing(lab):
    before = points(lab.calm), rows(lab.calm), weights(lab.calm)
    started = time.monotonic()
    output = run(lab, lab.calm)
    assert time.monotonic() - started < 30
    assert f"all {CELLS} cells have ended already; nothing is trained" in output
    assert (points(lab.calm), rows(lab.calm), weights(lab.calm)) == before
    command = [sys.executable, "-m", "ray_jobs.run_grid", str(lab.calm / "grid.yaml"), f"storage={lab.calm}"]
    plan = json.loads(subprocess.check_output([*command, "--plan", "--json"]))
    assert (plan["cells"], plan["stages"]) == (CELLS, STAGES)
    assert {stage["key"] for stage in plan["stage_list"] if stage["reused"]} == set(weights(lab.calm))


@pytest.mark.slow
def test_axes_grow_under_one_name_but_definitions_do_not_change(lab, other):
    shutil.copytree(lab.calm / "runs", other / "runs")
    grown = run(lab, other, "interleaving_ratios=[0, 0.25, 0.5]", "name=grown", "baselines=[sequential_ab]")
    assert "training 1 of 4 stages for 1 of 3 cells" in grown
    message = run(lab, other, "tokenizer.vocab_size=400", code=2)
    assert "holds a grid with another tokenizer; allowed: the same, or another name (add name=ANOTHER)" in message


@pytest.mark.slow
def test_a_storage_in_a_bucket_outlives_the_machines_that_work_on_it(lab, tmp_path, bucket):
    given = [f"storage={bucket}", "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    first = lab.start(tmp_path, *given, LETHE_CACHE=str(tmp_path / "first"))
    wait_for_cells(first, 2)
    first.kill()
    output = run(lab, tmp_path, *given, LETHE_CACHE=str(tmp_path / "second"))
    assert "scanned" not in output, "the data lie in the bucket"
    done = STAGES - int(output.split("training ")[1].split(f" of {STAGES} stages")[0])
    assert done >= 2
    (copy,) = (tmp_path / "second").iterdir()
    assert weights(copy) == weights(lab.calm)
    assert len(list(copy.rglob("model.safetensors"))) < STAGES, "weights that nobody asked for stay there"
    third = {"LETHE_CACHE": str(tmp_path / "third")}
    assert f"all {CELLS} cells have ended already" in run(lab, tmp_path, *given, **third)
    status = lab.start(tmp_path, given[0], program="status", **third)
    assert status.end() == 0
    assert f"{CELLS} finished" in status.text
