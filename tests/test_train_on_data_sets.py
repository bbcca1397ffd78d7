"""`python -m lethe.train` on a data set: corpus, tokenizer and shards are made on the way, and one can talk to it."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lethe.config import CONFIGS, RawConfig, UserError, read_yaml, validate
from lethe.corpora.dataset import DatasetCorpus
from lethe.tokens.shards import TokenData
from lethe.train import TrainConfig

TRAIN = """
corpora: [tinystories]
tokenizer: {vocab_size: 400}
model: {layers: 1, heads: 1, d_model: 32, d_ff: 64, context: 32}
mixture: {tinystories: 1}
stage: {tokens: 20000, batch: 8, learning_rate: 6e-3, evaluation: {sequences: 16, marks: 4}}
"""
NAMES, THINGS = ["Tom", "Lily", "Ben", "Mia"], ["ball", "kite", "cat", "boat", "cake", "frog", "tree", "hat"]


def run(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    rng = random.Random(0)
    sentences = (f"{rng.choice(NAMES)} gave the {rng.choice(THINGS)} to {rng.choice(NAMES)}." for _ in range(8000))
    with (tmp_path / "stories.jsonl").open("w") as file:
        for _ in range(800):
            file.write(json.dumps({"text": " ".join(next(sentences) for _ in range(10))}) + "\n")
    (tmp_path / "train.yaml").write_text(TRAIN)
    return tmp_path


@pytest.mark.slow
def test_it_trains_without_ray_finds_what_it_made_and_talks(storage: Path) -> None:
    given = [storage / "train.yaml", f"storage={storage}", "corpora.tinystories.dataset.path=stories.jsonl"]
    script = "import sys; from lethe.train import main; main(sys.argv[1:]); assert 'ray' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split("loss/tinystories ")[1].split()[0]) for line in done.stdout.splitlines()[:-1]]
    assert losses[-1] < 0.7 * losses[0]
    checkpoint = Path(done.stdout.split()[-1])
    (folder,) = (path for path in (storage / "data" / "tokens").iterdir() if path.is_dir())
    data = TokenData(folder)
    assert data.corpora == ["tinystories"]
    assert data.split("tinystories", "val").tokens > 16 * 32

    made = {path: path.stat().st_mtime_ns for path in (storage / "data").rglob("*") if path.is_file()}
    again = run("lethe.train", *given)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert "read" not in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (storage / "data").rglob("*") if path.is_file()} == made

    # No data set is needed to talk, so the YAML may go on naming one on the hub.
    (storage / "stories.jsonl").unlink()
    flags = ("--checkpoint", checkpoint, "--config", storage / "train.yaml")
    chat = run("lethe.validate", *flags, "--chat", "--tokens", "20", text="Tom gave the\n/quit\n")
    assert chat.returncode == 0, chat.stderr
    assert "gave the" in chat.stdout
    shown = run("lethe.validate", *flags)
    assert f"tinystories  {16:9,}" in shown.stdout, shown.stderr
    (storage / "train.yaml").write_text(TRAIN.replace("400", "500"))
    other = run("lethe.validate", *flags, "--prompt", "Tom")
    assert (other.returncode, other.stdout) == (2, "")
    assert "tokenizer.vocab_size: found 500; allowed: as in the checkpoint, bpe400-" in other.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpora": ["food"], "mixture": {"food": 1}}, r"corpora: found 'food', a domain, .* run ray_jobs\.tokenize"),
        ({"tokens": "bpe400"}, r"tokens, corpora: found both; allowed: one of them"),
        ({"corpora": None}, r"tokens, corpora: found neither; allowed: one of them"),
        ({"corpora": None, "tokens": "bpe400"}, r"tokenizer: found beside tokens, which have theirs; allowed: with"),
        ({"mixture": {"food": 1}}, r"mixture: found 'food'; allowed: tinystories"),
        ({"corpora": ["tinystory"]}, r"corpora: found 'tinystory' \(did you mean 'tinystories'\?\); allowed: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    (tmp_path / "train.yaml").write_text(TRAIN)
    data = read_yaml(tmp_path / "train.yaml").data | changes
    with pytest.raises(UserError, match=message):
        validate(TrainConfig, RawConfig("train.yaml", data, {}))


def test_the_shipped_one_is_of_a_data_set() -> None:
    config = validate(TrainConfig, read_yaml(CONFIGS / "train" / "tinystories.yaml"))
    assert config.corpora is not None
    assert isinstance(config.corpora["tinystories"], DatasetCorpus)
