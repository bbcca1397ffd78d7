"""The whole tokenization killed at random moments: the end is that of an undisturbed run."""

import subprocess
import sys
from pathlib import Path

import pytest
from kills import MARKS, Victim, kill_again_and_again

pytestmark = MARKS

GRID = """
corpora: [food, automotive]
models: [tiny]
baselines: [sequential_ab]
source: sample
tokenizer: {vocab_size: 600, candidates: [400]}
stage: {tokens: 100000, batch: 8, learning_rate: 0.001}
"""
IN_SMALL_PARTS = """
import sys
from lethe.corpora import parquet
parquet.ROW_GROUP_BYTES = parquet.PART_BYTES = 60_000
from ray_jobs.extract import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with corpora of many parts, each a unit of work, and nothing else of what the program makes."""
    storage = tmp_path_factory.mktemp("kills")
    (storage / "grid.yaml").write_text(GRID)
    command = [sys.executable, "-c", IN_SMALL_PARTS, str(storage / "grid.yaml"), f"storage={storage}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return storage


def test_killed_again_and_again_the_files_are_the_same(storage: Path) -> None:
    corpora = {path: path.stat().st_mtime_ns for path in (storage / "data" / "corpora").rglob("*.parquet")}
    pieces = (
        r"tokenizers/\w+-\w+/(tokenizer|report)\.json",
        r"tokens/\w+-\w+/\w+/meta\.json",
        r"tokens/\w+-\w+/\.partial/\w+/\w+/part-\d+\.json",
    )
    made = ("data/tokenizers", "data/tokens")
    parts = [path for path in corpora if path.parent.name in ("train", "val")]
    assert len(parts) >= 20
    kill_again_and_again(Victim("tokenize", storage, made, f"data/({'|'.join(pieces)})", len(parts)), seed=2)
    assert {path: path.stat().st_mtime_ns for path in corpora} == corpora
