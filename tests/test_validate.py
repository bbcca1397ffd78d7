"""The validation program on a real stage, as a user meets it: what it prints, and what it refuses."""

import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from lethe.config import UserError
from lethe.evaluation.documents import document_beginnings, score_documents
from lethe.files import sha256
from lethe.model.config import ModelConfig
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import EOS_ID, load_tokenizer
from lethe.training.job import Job
from lethe.training.load import load_model
from lethe.training.loop import run_stage
from lethe.training.stage import Evaluation, Recipe, Stage
from lethe.training.store import StageStore
from lethe.validate import as_text, harmless, main, one_line
from lethe.worker import Worker

MODEL = ModelConfig(layers=1, heads=2, d_model=32, d_ff=64, context=16)


@pytest.fixture(scope="module")
def job(toy_tokens: TokenData, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Food, then automotive with a little food, under a storage of its own."""
    storage = tmp_path_factory.mktemp("validate")
    shutil.copytree(toy_tokens.root.parents[1], storage / "data")
    data, store = TokenData(storage / "data" / "tokens" / toy_tokens.root.name), StageStore(storage / "runs" / "stages")
    recipe = Recipe(batch=8, learning_rate=3e-3)
    food = Stage(model=MODEL, mixture={"food": 1}, tokens=8 * 16 * 20, recipe=recipe, seed=1)
    both = Stage(
        model=MODEL,
        mixture={"automotive": 0.75, "food": 0.25},
        tokens=8 * 16 * 10,
        recipe=recipe,
        seed=1,
        intervention={"kind": "l2_sp", "strength": 2.0},  # type: ignore[arg-type]
        parent=food,
    )
    jobs = [Job(stage, data, store, ("automotive", "food"), Evaluation()) for stage in (food, both)]
    for each in jobs:
        run_stage(each, Worker())
    return jobs[-1]


@pytest.fixture
def folder(job: Job) -> Path:
    return job.store.folder(job.key)


@pytest.fixture
def own(job: Job, folder: Path, tmp_path: Path) -> Path:
    """The stage in a storage of its own, to be spoilt."""
    shutil.copytree(job.data.root.parents[1], tmp_path / "storage" / "data")
    return shutil.copytree(folder, tmp_path / "storage" / "runs" / "stages" / folder.name)


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def config_file(job: Job, path: Path, d_ff: int = 64) -> Path:
    path.write_text(
        f"tokens: {job.data.root}\nmixture: {{food: 1}}\n"
        f"model: {{layers: 1, heads: 2, d_model: 32, d_ff: {d_ff}, context: 16}}\n"
        "stage: {tokens: 128, batch: 8, learning_rate: 0.003, evaluation: {sequences: 5}}\n"
    )
    return path


def test_the_losses_are_those_the_training_ended_with(
    job: Job, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = job.store.curve(job.key, job.measured)
    assert curve is not None
    last = {row["name"]: row["value"] for row in curve.to_pylist() if row["step"] == job.stage.steps}
    out = printed(capsys, "--checkpoint", folder)
    for corpus in ("automotive", "food"):
        row = next(line.split() for line in out.splitlines() if line.startswith(f"{corpus} "))
        loss, bits = last[f"loss/{corpus}"], last[f"bpb/{corpus}"]
        assert [float(cell) for cell in row[2:]] == pytest.approx([loss, math.exp(loss), bits], abs=6e-3)


def test_the_stage_is_described(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "--checkpoint", folder)
    assert f"stage {folder.name}\n" in out
    assert "1. 100% food: 2,560 tokens in 20 steps, none, seed 1\n" in out
    assert "2. 75% automotive + 25% food: 1,280 tokens in 10 steps, l2_sp strength=2.0, seed 1\n" in out


def test_each_corpus_has_a_sample_that_starts_as_its_held_out_text(
    job: Job, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, "--checkpoint", folder).partition("\nsamples")[2]
    tokenizer = load_tokenizer(job.data.tokenizer_path)
    for corpus in ("automotive", "food"):
        start = tokenizer.decode(job.data.split(corpus, "val").read(np.array([0]), 16)[0, :8].tolist())
        line = next(line for line in out.splitlines() if line.startswith(f"{corpus}: "))
        assert line.startswith(f"{corpus}: [{start}]") and len(line) > len(f"{corpus}: [{start}]") + 20


def test_the_least_and_the_most_likely_documents_are_shown(
    job: Job, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, "--checkpoint", folder)
    tokenizer, model = load_tokenizer(job.data.tokenizer_path), load_model(job.store, job.key)
    for corpus in ("automotive", "food"):
        beginnings = document_beginnings(job.data.split(corpus, "val"), MODEL.context, 512)
        documents = score_documents(model, beginnings, job.data.byte_lengths, "cpu")
        assert len(documents) > 15
        rows = out.partition(f"\n\n{corpus}: the least and the most likely of {len(documents)} held-out documents (")[2]
        expected = [("least", d) for d in documents[:-4:-1]] + [("most", d) for d in documents[:3]]
        for row, (name, document) in zip(rows.splitlines()[2:8], expected, strict=True):
            which, loss, bits, text = row.split(maxsplit=3)
            assert (which, text) == (name, tokenizer.decode(document.ids.tolist()).strip()[:80])
            found = float(loss), float(bits)
            assert found == pytest.approx((document.loss, document.bits_per_byte), abs=2e-4)
        assert documents[0].loss < documents[-1].loss


@given(st.text(max_size=200))
def test_a_document_is_one_line_that_does_nothing_to_a_terminal(text: str) -> None:
    line, expected = one_line(text), " ".join(text.split())[:80]
    assert line.isprintable() and len(line) == len(expected)
    assert all(shown in (character, "\ufffd") for shown, character in zip(line, expected, strict=True))


def test_control_characters_are_replaced() -> None:
    assert one_line("  a\x1b[2J\tb\r\n\x07c\u202ed\x9be ") == "a\ufffd[2J b \ufffdc\ufffdd\ufffde"
    assert harmless("a\x1b[2J\tb\n\x07c\u202e\xa0d") == "a\ufffd[2J\tb\n\ufffdc\ufffd\xa0d"
    assert one_line("é 漢 😀" + "x" * 100) == "é 漢 😀" + "x" * 75


def test_folder_and_weights_are_the_same_and_so_is_a_second_look(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = printed(capsys, "--checkpoint", folder)
    assert printed(capsys, "--checkpoint", folder / "model.safetensors") == first


def test_a_prompt_is_gone_on_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "--checkpoint", folder, "--prompt", "the onion and")
    assert out.startswith("the onion and") and len(out) > len("the onion and\n")
    assert "<eos>" not in out
    assert printed(capsys, "--checkpoint", folder, "--prompt", "the onion and") == out
    assert printed(capsys, "--checkpoint", folder, "--prompt", "the engine")[10:] != out[13:]


def test_a_prompt_of_bytes_that_are_no_text_is_taken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--checkpoint", folder, "--prompt", "caf\udce9 and").startswith("caf? and")


def test_a_chat_goes_on_with_each_line_until_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the onion and\nthe engine")))
    first, second = printed(capsys, "--checkpoint", folder, "--chat").splitlines()
    assert first and second and first != second


def test_a_chat_takes_any_bytes_and_ends_with_quit(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lethe.validate", "--checkpoint", str(folder), "--chat"],
        input=b"the onion and\n\xff \xf0\x9f\n\n/quit\nnever read\n",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().count("\n") == 3


def test_each_line_of_a_chat_has_the_next_seed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the onion\nthe onion\n")))
    lines = printed(capsys, "--checkpoint", folder, "--chat", "--seed", 6).splitlines()
    for line, seed in zip(lines, (6, 7), strict=True):
        out = printed(capsys, "--checkpoint", folder, "--prompt", "the onion", "--seed", seed)
        assert out == f"the onion{line}\n"
    assert lines[0] != lines[1]


def test_how_text_is_drawn_can_be_told(job: Job, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, model = load_tokenizer(job.data.tokenizer_path), load_model(job.store, job.key)

    def drawn(*arguments: object) -> str:
        return printed(capsys, "--checkpoint", folder, "--prompt", "the", *arguments)

    ids = [EOS_ID, *tokenizer.encode("the").ids]
    for _ in range(9):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert EOS_ID not in ids[1:]
    greedy = tokenizer.decode(ids) + "\n"
    assert drawn("--tokens", 9, "--temperature", 0) == greedy
    assert drawn("--tokens", 9, "--top-k", 1) == drawn("--tokens", 9, "--top-p", 1e-6) == greedy
    defaults = ("--tokens", 100, "--temperature", 0.8, "--top-k", 50, "--top-p", 1, "--seed", 0)
    assert drawn() == drawn(*defaults)
    others = [("--tokens", 9), ("--temperature", 1.2), ("--top-k", 2), ("--top-p", 0.5), ("--seed", 1)]
    assert len({drawn(), *(drawn(*other) for other in others)}) == 6


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--tokens", "0"), "--tokens: found '0'; allowed: a whole number from 1 to 1,000,000"),
        (("--tokens", "ten"), "--tokens: found 'ten'; allowed: a whole number from 1 to 1,000,000"),
        (("--temperature", "-0.1"), "--temperature: found '-0.1'; allowed: a number from 0 to 100"),
        (("--temperature", "nan"), "--temperature: found 'nan'; allowed: a number from 0 to 100"),
        (("--top-k", "1.5"), "--top-k: found '1.5'; allowed: a whole number from 0 to 1,000,000"),
        (("--top-p", "0"), "--top-p: found '0'; allowed: a number from 1e-06 to 1"),
        (("--top-p", "1.01"), "--top-p: found '1.01'; allowed: a number from 1e-06 to 1"),
        (("--seed", "-1"), "--seed: found '-1'; allowed: a whole number from 0 to 4,294,967,295"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: tuple[str, str], problem: str) -> None:
    with pytest.raises(UserError) as error:
        main(["--checkpoint", "anywhere", *arguments])
    assert str(error.value) == problem


def test_a_stage_away_from_its_storage_needs_a_config(
    job: Job, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    with pytest.raises(UserError, match="found no token shards"):
        main(["--checkpoint", str(moved)])
    out = printed(capsys, "--checkpoint", moved, "--config", config_file(job, tmp_path / "train.yaml"))
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("food ")] == [["food", "5"]]


def test_a_config_of_another_model_is_refused(job: Job, folder: Path, tmp_path: Path) -> None:
    other = config_file(job, tmp_path / "train.yaml", d_ff=128)
    with pytest.raises(UserError, match=r"train.yaml: model.d_ff: found 128; allowed: 64, as in the checkpoint"):
        main(["--checkpoint", str(folder), "--config", str(other)])


def test_another_tokenizer_is_refused(job: Job, own: Path) -> None:
    record = own / "stage.json"
    record.write_text(record.read_text().replace(job.data.tokenizer_fingerprint, "0" * 64))
    with pytest.raises(UserError, match="another tokenizer than the one"):
        main(["--checkpoint", str(own)])


def test_what_is_no_finished_stage_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, folder.parent):
        with pytest.raises(UserError, match=f"--checkpoint: found {path}; allowed: the folder of a finished stage"):
            main(["--checkpoint", str(path)])


def forge(own: Path, weights: bytes) -> None:
    """Put other weights in the stage's place, which its record names as the right ones."""
    (own / "model.safetensors").write_bytes(weights)
    record = json.loads((own / "stage.json").read_text())
    record["files"]["model.safetensors"] = sha256(own / "model.safetensors")
    (own / "stage.json").write_text(json.dumps(record))


def test_what_is_no_safetensors_file_is_refused_whatever_its_record_says(own: Path) -> None:
    forge(own, b"cos\nmkdir\n(Vx\ntR.")
    with pytest.raises(UserError, match=r"model.safetensors: found no safetensors file \(.*\); allowed: weights as"):
        main(["--checkpoint", str(own)])


def test_weights_that_are_no_numbers_are_refused(own: Path) -> None:
    tensors = load_file(own / "model.safetensors")
    tensors["norm.weight"][0] = math.nan
    forge(own, save(tensors))
    with pytest.raises(UserError, match=r"model.safetensors: norm.weight: found weights that are no numbers; allowed"):
        main(["--checkpoint", str(own)])


def test_altered_tokens_are_refused(job: Job, own: Path) -> None:
    (shard,) = (own.parents[2] / "data" / "tokens" / job.data.root.name).glob("food/val-*.bin")
    np.full(shard.stat().st_size // 2, 60_000, "<u2").tofile(shard)
    with pytest.raises(UserError, match=r"val-00000.bin: sha256: found"):
        main(["--checkpoint", str(own)])


@given(st.text(max_size=30), st.lists(st.integers(1, 319), max_size=20))
def test_pieces_add_up_to_the_text_and_hold_no_half_character(
    toy_tokens: TokenData, text: str, noise: list[int]
) -> None:
    tokenizer = load_tokenizer(toy_tokens.tokenizer_path)
    ids = tokenizer.encode(text).ids
    pieces = list(as_text(tokenizer, iter(ids)))
    assert "".join(pieces) == text
    assert len(pieces) == len(ids) + 1
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text
    noise = [i for i in noise if i < tokenizer.get_vocab_size()]
    assert "".join(as_text(tokenizer, iter(ids + noise))) == tokenizer.decode(ids + noise)
