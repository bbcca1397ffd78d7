"""Bad input is refused before anything trains: exit 2, one message that says what and where, no traceback."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lethe.config import UserError
from lethe.tokens.shards import TokenData

GRID = {
    "corpora": ["food", "automotive"],
    "tokenizer": {"vocab_size": 512},
    "models": ["toy"],
    "baselines": ["sequential_ab", "sequential_ba", "combined"],
    "interleaving_ratios": [0, 0.25],
    "stage": {"tokens": 40_000, "batch": 8, "learning_rate": 6e-3},
}


def refused(storage: Path, *overrides: str, text: str | None = None, config: Path | None = None) -> str:
    """What the program says on standard error; asserts exit code 2, no traceback, and that nothing was trained."""
    path = config or storage / "grid.yaml"
    if config is None:
        path.write_text(yaml.safe_dump(GRID) if text is None else text)
    command = [sys.executable, "-m", "ray_jobs.run_grid", str(path), f"storage={storage}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
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
def test_a_corpus_too_small_for_its_budget(other):
    message = refused(other, "stage.tokens=900_000")
    assert "stage.max_epochs: found 1; corpus automotive has " in message
    assert "corpus food has " in message
    assert "allowed: at least " in message


@pytest.mark.ray
def test_a_held_out_part_of_too_few_sequences(other):
    message = refused(other, "stage.evaluation.sequences=1_000_000")
    assert "stage.evaluation.sequences: found 1,000,000; corpus automotive holds out " in message
    assert "corpus food holds out " in message


@pytest.mark.ray
def test_a_tokenizer_that_does_not_match_the_shards(other, tmp_path):
    shutil.copytree(other / "data", tmp_path / "data")
    (tokenizer,) = (tmp_path / "data" / "tokenizers").glob("bpe512-*/tokenizer.json")
    content = json.loads(tokenizer.read_text())
    content["model"]["merges"][-1], content["model"]["merges"][-2] = content["model"]["merges"][-2:]
    tokenizer.write_text(json.dumps(content))
    assert f"{tokenizer}: not the tokenizer its report.json describes" in refused(tmp_path)
    (root,) = (tmp_path / "data" / "tokens").glob("bpe512-*")
    with pytest.raises(UserError, match="a tokenizer that does not match the shards"):
        TokenData(root)
