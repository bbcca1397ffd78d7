"""Checkpoints of a stage in training: weights and optimizer state as safetensors, the rest as JSON, written last."""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from lethe.config import UserError
from lethe.files import write_json
from lethe.training.store import load_tensors, save_tensors


def save(partial: Path, step: int, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: Any) -> None:
    """Write `partial/STEP/`, then drop all but this and the one before it."""
    folder = partial / f"{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "model.safetensors": save_tensors(folder / "model.safetensors", weights),
        "optimizer.safetensors": save_tensors(folder / "optimizer.safetensors", optimizer),
    }
    write_json(folder / "state.json", {"step": step, "state": state, "files": files})
    for old in sorted(partial.iterdir())[:-2]:
        shutil.rmtree(old)


def latest(partial: Path) -> tuple[int, dict[str, Tensor], dict[str, Tensor], Any] | None:
    """Step, weights, optimizer state and state of the newest whole checkpoint; what is not whole is passed over."""
    for folder in sorted(partial.glob("*"), reverse=True):
        try:
            record = json.loads((folder / "state.json").read_text())
            weights, optimizer = (
                load_tensors(folder / name, record["files"][name]) for name in sorted(record["files"])
            )
            return record["step"], weights, optimizer, record["state"]
        except (OSError, ValueError, KeyError, UserError):
            continue
    return None
