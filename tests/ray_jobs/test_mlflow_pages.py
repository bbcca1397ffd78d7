"""What a user finds in MLflow by the link that a grid prints, in a real browser; and what nobody finds: a secret."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from benchmarks.chaos import lab
from benchmarks.chaos.tracking_faults import tracking_server

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SECRET = "planted-marker"
CELLS = ["sequential_ab-toy-r0-none-s0", "sequential_ab-toy-r0.25-none-s0"]


def seen(browser: Any, *texts: str, seconds: float = 90) -> bool:
    """Whether the page comes to show all of these texts."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        shown = browser.execute_script("return document.body.innerText")
        if all(text in shown for text in texts):
            return True
        time.sleep(0.5)
    return False


def test_the_printed_link_leads_to_runs_curves_and_comparisons_and_no_secret_is_anywhere(tmp_path: Path, browser):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(lab.GRID | {"baselines": ["sequential_ab"]}))
    with tracking_server(tmp_path, lab.free_port()) as uri:
        with_secret = uri.replace("://", f"://walter:{SECRET}@")
        command = [sys.executable, "-m", "ray_jobs.run_grid", str(tmp_path / "small.yaml"), f"storage={tmp_path}"]
        done = subprocess.run([*command, "--tracking-uri", with_secret], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (link,) = (line.split()[1] for line in done.stdout.splitlines() if line.startswith("MLflow"))
        assert link.startswith(f"{uri}/#/experiments/")

        browser.set_window_size(1600, 1200)  # the table draws no column that lies outside
        browser.get(link)
        columns = "interleaving_ratio", "forgetting/food", "final_loss/automotive"
        assert seen(browser, *CELLS, *columns), "the runs"
        client = MlflowClient(uri)
        (experiment,) = (e for e in client.search_experiments() if e.name == "small")
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.run_name"])
        assert [run.info.run_name for run in runs] == CELLS
        ids = [run.info.run_id for run in runs]
        browser.get(f"{link.partition('?')[0]}/{ids[0]}/model-metrics")
        assert seen(browser, f"{CELLS[0]} (bpb/food)"), "its curves"
        asked = f"runs={json.dumps(ids)}&experiments={json.dumps([experiment.experiment_id])}"
        browser.get(f"{uri}/#/compare-runs?{asked}")
        assert seen(browser, *CELLS, "interleaving_ratio", "forgetting/food"), "two cells beside each other"

    assert SECRET not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "profile" not in path.parts]
    assert len(files) > 30
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
