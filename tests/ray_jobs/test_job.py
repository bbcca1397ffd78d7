"""The README's cluster section, for real: a head with token authentication, a submitted job, a shared storage."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.chaos.lab import free_port

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
OVERRIDES = ["baselines=[sequential_ab, sequential_ba]", "interleaving_ratios=[0]", "seeds=[0]", "models=[toy]"]
OVERRIDES += ["stage.tokens=20000", "name=job"]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a cluster's job server, and the environment of its client."""
    temporary, port, dashboard = tmp_path_factory.mktemp("ray"), free_port(), free_port()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
    }
    environment |= {"RAY_AUTH_TOKEN_PATH": str(temporary / "token"), "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    (temporary / "token").write_text("0123456789abcdef" * 4)
    (temporary / "token").chmod(0o600)
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # another Ray of this machine has the usual one
    with (temporary / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    for _ in range(120):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                break
        time.sleep(0.5)
    yield f"http://127.0.0.1:{dashboard}", environment
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    shutil.rmtree(temporary, ignore_errors=True)


def submit(head: tuple[str, dict[str, str]], *overrides: str) -> tuple[int, str]:
    address, environment = head
    command = ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--runtime-env"]
    command += ["ray_jobs/runtime_env.yaml", "--", "python", "-m", "ray_jobs.run_grid", "configs/grids/quickstart.yaml"]
    done = subprocess.run(
        [*command, *OVERRIDES, *overrides],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_submitted_grid_lands_in_the_shared_storage(head, tmp_path):
    code, output = submit(head, f"storage={tmp_path}")
    assert code == 0, output
    results = pq.read_table(tmp_path / "runs" / "job" / "results.parquet").to_pylist()
    assert [row["status"] for row in results] == ["finished", "finished"]
    assert (tmp_path / "runs" / "job" / "report.html").is_file()
    assert (tmp_path / "mlflow.db").is_file()


def test_a_relative_storage_is_refused_with_the_reason(head):
    code, output = submit(head)
    assert code != 0
    assert "storage: found '.'; allowed: an absolute path" in output
