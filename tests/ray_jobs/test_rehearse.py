"""A real rehearsal of a small grid: a real Ray, the built-in sample."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

GRID = {
    "corpora": ["food", "automotive"],
    "tokenizer": {"vocab_size": 512},
    "models": ["toy"],
    "baselines": ["sequential_ab", "combined"],
    "stage": {
        "tokens": 60_000,
        "batch": 8,
        "learning_rate": 6e-3,
        "evaluation": {"sequences": 32, "marks": 4},
    },
}


def rehearse(storage: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    storage.mkdir(exist_ok=True)
    (storage / "small.yaml").write_text(yaml.safe_dump(GRID))
    command = [sys.executable, "-m", "ray_jobs.run_grid", str(storage / "small.yaml"), "--rehearse"]
    done = subprocess.run(
        [*command, f"storage={storage}", *arguments], capture_output=True, text=True, timeout=400, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.slow
def test_a_rehearsal_measures_judges_and_leaves_the_grid_alone(other: Path):
    done = rehearse(other, "--json", "--price", "3.6")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((other / "runs" / "small" / "rehearsal.json").read_text())
    model = result["models"]["toy"]
    assert (model["steps"], model["verdict"]) == (200, "ok")
    assert (
        0.5
        <= model["fallen"]
        == pytest.approx(
            (model["loss_untrained"] - model["loss"]) / (model["loss_untrained"] - model["unigram_entropy"])
        )
    )
    assert model["peak_bytes"] > 2**26
    assert (result["stages"], result["tokens"]) == (3, 256 * (2 * 234 + 469))
    assert result["money"] == pytest.approx(3.6 * result["device_hours"])
    assert result["hours"] * model["slots"] >= result["device_hours"] * 0.999 > 0
    assert not (other / "runs" / "stages").exists()
    assert {path.name for path in (other / "runs" / "small").iterdir()} == {"rehearsal", "rehearsal.json", "lock"}
    assert not (other / "mlflow.db").exists()


@pytest.mark.long
def test_a_rate_at_which_nothing_is_learned_and_one_that_diverges_are_told(other: Path):
    still = rehearse(other, "stage.learning_rate=1e-7", "name=still")
    assert still.returncode == 1
    assert "in 200 steps the loss fell only " in still.stdout
    apart = rehearse(other, "stage.learning_rate=1e18", "stage.clip=1e18", "name=apart")
    assert apart.returncode == 1
    assert "diverged: the loss is not a number" in apart.stdout
    assert "hours are not known" in apart.stdout


def test_what_does_not_go_together_is_refused(tmp_path: Path):
    for arguments, told in (
        (["--plan"], "not allowed with argument"),
        (["--price", "-1"], "--price: found -1; allowed:"),
    ):
        done = rehearse(tmp_path, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"small.yaml"}
