"""The program as it is called: bad input, and (slow) the whole of it on the built-in sample."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def call(*arguments: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ray_jobs.self_check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("configs/grids/quickstart.yaml", "found 'configs/grids/quickstart.yaml'; allowed: FIELD=VALUE"),
        ("baselines=[combined]", "found 'baselines=[combined]'; allowed: source, storage, corpora"),
        ("resources.toy.workers=2", "found 'resources.toy.workers=2'; allowed: source, "),
        ("stage.tokns=9", "unknown field 'stage.tokns' (did you mean 'tokens'?)"),
        ("models=[toy, tiny]", "models: found toy, tiny; allowed: one model"),
        ("corpora=[food]", "'sequential_ab' is defined for two corpora, found 1"),
        ("source=nowhere/*.parquet", "nowhere/*.parquet"),
    ],
)
def test_bad_input_is_one_message(tmp_path, argument, expected):
    done = call(f"storage={tmp_path}", argument)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert expected in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "runs" / "stages").exists()


def result(done: "subprocess.CompletedProcess[str]") -> dict:
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_the_sample_is_checked_and_again_at_no_cost(tmp_path: Path):
    arguments = (f"storage={tmp_path}", "seeds=[0,1,2]", "--json")
    first = call(*arguments, timeout=1500)
    assert first.returncode == 0, first.stderr[-3000:]
    found = result(first)
    assert len(found["checks"]) >= 13
    assert found["held"] + found["failed"] + found["undecided"] == len(found["checks"])
    bad = [c for c in found["checks"] if c["verdict"] == "failed" and c["strength"] in ("exact", "near-certain")]
    assert not bad
    assert {c["name"].split()[0] for c in found["checks"] if c["verdict"] == "held"} >= {"1a", "1b", "4a", "11b", "14"}
    assert json.loads((tmp_path / "runs" / "self_check.json").read_text()) == found
    again = call(*arguments)
    assert "nothing is trained" in again.stderr
    assert result(again) == found
