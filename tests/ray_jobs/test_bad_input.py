"""Bad input is refused before anything trains: exit 2, one message that says what and where, no traceback.

What is refused, and in which words, stands beside what reads it, and for whole programs in benchmarks.bad_input.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.chaos.lab import GRID


def run(storage: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (storage / "grid.yaml").write_text(yaml.safe_dump(GRID))
    command = [sys.executable, "-m", "ray_jobs.run_grid", str(storage / "grid.yaml"), f"storage={storage}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def refused(storage: Path, *overrides: str) -> str:
    """What the program says on standard error; asserts exit code 2, no traceback, and that nothing was trained."""
    done = run(storage, *overrides)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (storage / "runs" / "stages").exists()
    return done.stderr


def test_several_problems_are_told_at_once(tmp_path):
    message = refused(tmp_path, "models=[x]", "interleaving_ratios=[2]", "surprise=1")
    assert len(message.strip().splitlines()) == 3


@pytest.mark.ray
def test_more_than_the_cluster_has_is_told_before_any_data_are_made(tmp_path):
    message = refused(tmp_path, "resources.toy.gpus=64")
    assert "resources of model toy: found 1 workers with 1 CPU each" not in message
    assert "resources of model toy: found 1 workers with 64 GPU each; allowed: at most " in message
    assert "or autoscaled: true" in message
    assert not (tmp_path / "data").exists()


@pytest.mark.ray
def test_corpora_too_small_for_what_is_asked_of_them(other):
    asked = "stage.tokens=900_000", "stage.evaluation.sequences=1_000_000"
    message = refused(other, *asked)
    for corpus in ("automotive", "food"):
        assert f"stage.max_epochs: found 1; corpus {corpus} has " in message
        assert f"stage.evaluation.sequences: found 1,000,000; corpus {corpus} holds out " in message
    assert "allowed: at least " in message
    plan = run(other, *asked, "--plan")
    assert plan.returncode == 0
    assert f"note: running it would be refused: {message}" in plan.stderr
