"""An exported stage in transformers, which knows nothing of this project: the same logits, ids and texts."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lethe.config import UserError
from lethe.export import main, whole_folder, write
from lethe.finished import FinishedStage, open_stage
from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.model.generate import generate
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import EOS_ID
from lethe.training.job import Job
from lethe.training.loop import run_stage
from lethe.training.stage import Evaluation, Recipe, Stage
from lethe.training.store import StageStore
from lethe.validate import main as validate
from lethe.worker import Worker

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

NASTY = [
    "",
    " ",
    "the onion",
    "  two  ",
    "a\r\n\n\tb",
    "<eos>",
    "x<eos>y <|endoftext|></s>",
    "é漢👩‍🍳",
    "\x00\x1b\x7f",
    "I don't .",
    "\ufffd",
]


@pytest.fixture(scope="module", params=["torch", "fundamentals"])
def job(request: pytest.FixtureRequest, toy_tokens: TokenData, tmp_path_factory: pytest.TempPathFactory) -> Job:
    storage = tmp_path_factory.mktemp("export")
    shutil.copytree(toy_tokens.root.parents[1], storage / "data")
    data, store = TokenData(storage / "data" / "tokens" / toy_tokens.root.name), StageStore(storage / "runs" / "stages")
    model = ModelConfig(
        layers=2, heads=2, d_model=32, d_ff=72, context=48, rope_theta=500, norm_eps=1e-3, implementation=request.param
    )
    recipe = Recipe(batch=8, learning_rate=6e-3)
    stage = Stage(model=model, mixture={"food": 1, "automotive": 1}, tokens=40 * 8 * 48, recipe=recipe, seed=0)
    result = Job(stage, data, store, ("food",), Evaluation(sequences=4, marks=1))
    run_stage(result, Worker())
    return result


@pytest.fixture(scope="module")
def exported(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "hf"
    assert main(["--checkpoint", str(job.store.folder(job.key)), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def model(exported: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(exported)


@pytest.fixture(scope="module")
def tokenizer(exported: Path) -> Any:
    return AutoTokenizer.from_pretrained(exported)


@pytest.fixture(scope="module")
def finished(job: Job) -> FinishedStage:
    return open_stage(job.store.folder(job.key), None)


def test_the_logits_are_the_same(finished: FinishedStage, model: Any) -> None:
    ids = torch.randint(320, (3, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = finished.model(ids)
        torch.testing.assert_close(model(ids).logits, ours, rtol=0, atol=1e-4)
        assert ours.std() > 0.5
        loss = torch.nn.functional.cross_entropy(ours[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        assert model(ids, labels=ids).loss.item() == pytest.approx(loss.item(), abs=1e-5)
    assert (type(model).__name__, model.dtype) == ("LlamaForCausalLM", torch.float32)
    assert model.num_parameters() == sum(parameter.numel() for parameter in finished.model.parameters())


def test_the_tokenizer_gives_our_ids_after_eos(finished: FinishedStage, tokenizer: Any) -> None:
    for text in NASTY:
        ids = finished.tokenizer.encode(text).ids
        assert tokenizer(text).input_ids == [EOS_ID, *ids]
        assert tokenizer(text, add_special_tokens=False).input_ids == ids
        assert tokenizer.decode(ids) == tokenizer.decode([EOS_ID, *ids], skip_special_tokens=True) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (EOS_ID, EOS_ID, 320)


@pytest.mark.parametrize("prompt", ["", "the onion and", "a <eos> b"])
def test_it_generates_what_validate_generates_greedily(
    job: Job, model: Any, tokenizer: Any, prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tokenizer(prompt, return_tensors="pt")
    tokens = 48 - inputs.input_ids.shape[1]
    theirs = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)[0]
    asked = ["--prompt", prompt, "--temperature", "0", "--tokens", str(tokens)]
    assert validate(["--checkpoint", str(job.store.folder(job.key)), *asked]) == 0
    assert capsys.readouterr().out == tokenizer.decode(theirs, skip_special_tokens=True) + "\n"
    assert len(theirs) > 20


def test_ids_that_pad_the_embedding_are_kept_and_never_generated(finished: FinishedStage, tmp_path: Path) -> None:
    """A model of 384 rows for 320 ids, whose padding is always likelier than what is no padding."""
    config = finished.stage.model
    padded = build_model(config, 384)
    initialise(padded, 0)
    with torch.no_grad():
        padded.embedding.weight[320:] = 5 * padded.embedding.weight[:64]  # type: ignore[union-attr, index, operator]
    write(replace(finished, model=padded, record=finished.record | {"vocab_size": 384}), tmp_path)
    model, ids = AutoModelForCausalLM.from_pretrained(tmp_path), torch.tensor([[EOS_ID, 70, 80]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, padded(ids), rtol=0, atol=1e-4)
        assert padded(ids)[0, -1].argmax() >= 320
    drawn = {"context": 48, "temperature": 0.0, "top_k": None, "seed": 0, "vocab": 320, "stop": EOS_ID}
    ours = list(generate(padded, ids, tokens=30, **drawn))  # type: ignore[arg-type]
    theirs = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=30)[0, 3:].tolist()
    assert theirs[: len(ours)] == ours
    assert len(ours) > 3


def test_nothing_in_the_folder_is_code_and_nothing_else_is_left(exported: Path) -> None:
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in exported.iterdir()} == names
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    config = json.loads((exported / "config.json").read_text())
    assert "auto_map" not in config
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_filled(job: Job, tmp_path: Path) -> None:
    folder = job.store.folder(job.key)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=f"--out: found {out}; allowed: a folder that does not exist, or is empty"):
            main(["--checkpoint", str(folder), "--out", str(out)])
    with pytest.raises(UserError, match="file/hf: cannot be written: Not a directory"):
        main(["--checkpoint", str(folder), "--out", str(tmp_path / "file" / "hf")])
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    main(["--checkpoint", str(folder / "model.safetensors"), "--out", str(tmp_path / "empty")])
    assert (tmp_path / "empty" / "config.json").is_file()


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), whole_folder(tmp_path / "a" / "hf") as folder:
        (folder / "half").write_text("...")
        raise KeyError
    assert list((tmp_path / "a").iterdir()) == []


def test_a_model_of_another_architecture_is_refused(
    job: Job, tmp_path: Path, add_kinds, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the stage that changed it is an earlier one; looking at such a stage goes on working."""
    add_kinds({})
    given = job.stage.model_dump() | {"tokens": 2 * 8 * 48}
    grown = Stage(**given | {"parent": job.stage, "intervention": {"kind": "grow"}})
    later = Stage(**given | {"parent": grown})
    for stage in (grown, later):
        own = replace(job, stage=stage)
        run_stage(own, Worker())
        folder = str(job.store.folder(own.key))
        with pytest.raises(UserError, match=f"{own.key}: intervention: found 'grow', which changes the model's"):
            main(["--checkpoint", folder, "--out", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()
        assert validate(["--checkpoint", folder, "--prompt", "the", "--tokens", "70"]) == 0
        assert len(capsys.readouterr().out) > 20


def test_it_needs_no_more_than_it_must(job: Job, tmp_path: Path) -> None:
    code = (
        "import sys; from lethe.export import main\n"
        "main(sys.argv[1:])\n"
        "assert not {'transformers', 'ray', 'mlflow'} & set(sys.modules)"
    )
    arguments = ["--checkpoint", str(job.store.folder(job.key)), "--out", str(tmp_path / "hf")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
