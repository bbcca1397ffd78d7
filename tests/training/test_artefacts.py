"""Artefacts: made once whoever asks, whole or not at all, refused when altered."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from lethe.config import UserError
from lethe.training.artefacts import artefact

ABOUT = {"stage": "0123", "kind": "numbers", "parameters": {"n": 3}}


def make() -> dict[str, torch.Tensor]:
    return {"numbers": torch.arange(3), "halves": torch.arange(3) / 2}


def refuse() -> dict[str, torch.Tensor]:
    raise AssertionError("it was made again")


def get(root: Path, **changes):
    return artefact(root, ABOUT | changes.pop("about", {}), changes.pop("make", make))


def files(root: Path) -> dict[str, Path]:
    return {path.name: path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_made_once_and_known_by_all_that_describes_it(tmp_path):
    first = get(tmp_path)
    again = get(tmp_path, make=refuse)
    assert torch.equal(first["numbers"], torch.arange(3))
    assert torch.equal(again["halves"], torch.arange(3) / 2)
    for change in ({"stage": "0124"}, {"kind": "digits"}, {"parameters": {"n": 4}}):
        with pytest.raises(AssertionError, match="made again"):
            get(tmp_path, about=change, make=refuse)
    assert json.loads(files(tmp_path)["artefact.json"].read_text())["kind"] == "numbers"


def test_an_altered_one_is_refused(tmp_path):
    get(tmp_path)
    path = files(tmp_path)["tensors.safetensors"]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"tensors.safetensors: sha256: found .* the file was altered"):
        get(tmp_path, make=refuse)


@pytest.mark.parametrize("gone", ["artefact.json", "tensors.safetensors"])
def test_half_of_one_is_made_again(tmp_path, gone):
    get(tmp_path)
    files(tmp_path)[gone].unlink()
    assert torch.equal(get(tmp_path)["numbers"], torch.arange(3))
    assert set(files(tmp_path)) == {"artefact.json", "tensors.safetensors"}


def _killed_while_it_makes(root: Path) -> None:
    get(root, make=lambda: os.kill(os.getpid(), signal.SIGKILL))


def _slow(root: Path, log: Path) -> None:
    def count() -> dict[str, torch.Tensor]:
        with log.open("a") as file:
            file.write("made\n")
        return make()

    get(root, make=count)


def test_killed_in_the_making_nothing_is_there_and_the_next_makes_it(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=_killed_while_it_makes, args=(tmp_path,))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert not files(tmp_path)
    assert torch.equal(get(tmp_path)["numbers"], torch.arange(3))


def test_of_many_that_ask_at_once_one_makes_it(tmp_path):
    root, log = tmp_path / "artefacts", tmp_path / "log"
    children = [multiprocessing.get_context("fork").Process(target=_slow, args=(root, log)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 4
    assert log.read_text() == "made\n"
