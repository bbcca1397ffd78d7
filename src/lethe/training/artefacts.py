"""Artefacts: what is derived from a finished stage and shared by others, such as texts sampled from it, or a Fisher.

KEY/tensors.safetensors     what was derived
KEY/artefact.json           of what, how, and the sha256 of the tensors; written last: where it is, all is

KEY is a hash of all that determines the tensors, so the arms of a grid share them, and a rerun finds them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lethe.files import fingerprint, whole, write_json
from lethe.training.store import load_tensors, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

# Raise it with every change that alters what an unchanged description gives, and with it the version of the
# interventions that ask for it.
VERSION = 1


def artefact(root: Path, about: dict[str, Any], make: "Callable[[], dict[str, Tensor]]") -> "dict[str, Tensor]":
    """The tensors that `about` (JSON) describes, made where missing, on the CPU; UserError where their file is altered.

    Of all that ask for the same, ranks of a stage or other stages, the first makes them while the others wait for its
    lock, however long: a collective would time out.
    """
    about = {"version": VERSION, **about}
    folder = root / fingerprint(about)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{folder.name}.lock"):
        if _digest(folder) is None:
            with whole(folder / "tensors.safetensors") as temporary:
                digest = save_tensors(temporary, make())
            write_json(folder / "artefact.json", about | {"sha256": digest})
    return load_tensors(folder / "tensors.safetensors", str(_digest(folder)))


def _digest(folder: Path) -> str | None:
    """The sha256 that the tensors must have; None where the artefact is not whole."""
    try:
        digest: str = json.loads((folder / "artefact.json").read_text())["sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return digest if (folder / "tensors.safetensors").is_file() else None
