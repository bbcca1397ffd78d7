"""Checkpoints of a stage in training: weights and optimizer state as safetensors, the rest as JSON, written last."""

import json
import logging
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lethe.config import UserError
from lethe.files import fingerprint, write_json
from lethe.training.store import load_tensors, save_tensors, states

log = logging.getLogger(__name__)

Tensors = dict[str, dict[str, Tensor]]
"""By file: `model` the weights, `optimizer` its state, `intervention` what it remembers, where it does."""


@dataclass
class State:
    """All of a stage in training but its tensors."""

    key: str
    """Of the stage."""
    measured: str
    """Fingerprint of what the curve holds."""
    step: int = 0
    """Steps done."""
    spent: int = 0
    """Steps done before the stage began anew, if it did."""
    seconds: dict[str, float] = field(default_factory=lambda: {"steps": 0.0, "evaluation": 0.0, "checkpoints": 0.0})
    curve: list[tuple[Any, ...]] = field(default_factory=list)
    """Rows of the store's CURVE."""


def save(partial: Path, state: State, tensors: Tensors) -> None:
    """Write `partial/STEP/`, STEP counting those spent too, then drop all but this and the one before it."""
    folder = partial / f"{state.spent + state.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: save_tensors(folder / f"{name}.safetensors", held) for name, held in tensors.items() if held}
    record = asdict(state) | {"files": files}
    write_json(folder / "state.json", {**record, "fingerprint": fingerprint(record)})
    for old in sorted(partial.iterdir())[:-2]:
        shutil.rmtree(old)


def glance(partial: Path) -> tuple[int, dict[str, float]] | None:
    """The step of the newest checkpoint, and what was measured last before it; for people, so nothing is verified."""
    for state in states(partial):
        with suppress(ValueError, KeyError):
            return int(state["step"]), {name: value for _, _, _, name, value in state["curve"]}
    return None


def latest(partial: Path, key: str) -> tuple[State, Tensors] | None:
    """State and tensors of the newest checkpoint of stage `key` that is whole.

    One that is truncated, altered or another stage's is named in the log, and the one before it is taken.
    """
    for folder in sorted(partial.glob("*"), reverse=True):
        try:
            return _load(folder, key)
        except (OSError, ValueError, KeyError, TypeError, UserError) as error:
            log.warning("checkpoint %s refused: %s", folder, error)
    return None


def _load(folder: Path, key: str) -> tuple[State, Tensors]:
    path = folder / "state.json"
    record = json.loads(path.read_text())
    if record.pop("fingerprint") != fingerprint(record):
        raise UserError(f"{path}: it does not match its fingerprint; the file was altered")
    files, state = record.pop("files"), State(**record)
    if state.key != key:
        raise UserError(f"{path}: key: found {state.key}, allowed: {key}; it is another stage's")
    tensors = {name: load_tensors(folder / f"{name}.safetensors", digest) for name, digest in files.items()}
    state.curve = [tuple(row) for row in state.curve]
    return state, tensors
