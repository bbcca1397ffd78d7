"""Whether the benchmark of kills and faults sees what it says: some of each, and a grid that is not as it must be."""

import shutil
from pathlib import Path

import pytest

from benchmarks.chaos.__main__ import disturb
from benchmarks.chaos.faults import copy_of_calm
from benchmarks.chaos.lab import lost_steps

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

FAULTS = ["ctrl_c", "worker_frozen", "a_node_lost"]


def test_a_kill_and_faults_change_nothing(lab):
    result = disturb(lab, kills=1, names=FAULTS, seed=0)
    assert result.pop("lost_steps_max") <= 20
    expected = {"kills": 1, "faults": len(FAULTS), "identical": 1, "doubled_points": 0, "lost_points": 0, "wrong": []}
    assert result == expected


def test_what_differs_is_seen(lab):
    storage = copy_of_calm(lab, "other")
    assert not lab.compare(storage).differences
    (storage / "runs" / "stages" / ".half.json.host.1-1").touch()
    record = next((storage / "runs" / "stages").glob("*/stage.json"))
    shutil.move(record, storage)
    differences = lab.compare(storage).differences
    assert "weights differ" in differences
    assert any("left over: .half.json" in difference for difference in differences)


def test_steps_that_are_trained_again_are_counted_by_stage(tmp_path: Path):
    assert lost_steps(tmp_path) == 0
    (tmp_path / "trace.txt").write_text("a 0\na 1\nb 0\na 2\nb 1\na 1\na 2\nb 0\n")
    assert lost_steps(tmp_path) == 2
