"""What of a storage's runs no grid needs any more, by the plans of all its grids."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from lethe.config import UserError
from lethe.training.store import StageStore


class Litter(NamedTuple):
    """A file or folder that could be deleted, its size in bytes, and why."""

    path: Path
    bytes: int
    why: str


def find(runs: Path, plans: Iterable[Mapping[str, Any]] = ()) -> list[Litter]:
    """All litter below `runs`. What the plans of its grids name is needed, and what `plans` name (as Tree.plan)."""
    stages = {stage["key"]: stage for plan in (*_plans(runs), *plans) for stage in plan["stage_list"] if "key" in stage}
    found = [*_of_stages(StageStore(runs / "stages"), stages), *_of_artefacts(runs / "artefacts", stages)]
    for ray in runs.glob("*/ray"):
        with suppress(OSError), FileLock(ray.with_name("lock"), timeout=0):  # else it runs, or nothing can be deleted
            found += [(ray, "Ray's records of a run that was killed")]
    found += [(folder, "models of a rehearsal") for folder in runs.glob("*/rehearsal")]
    return [Litter(path, _size(path), why) for path, why in found if path.exists()]


def delete(runs: Path, litter: Iterable[Litter]) -> None:
    """Delete it; raises UserError, and deletes nothing, while a grid of the storage runs."""
    with ExitStack() as locks:
        for folder in sorted(plan.parent for plan in runs.glob("*/plan.json")):
            try:
                locks.enter_context(FileLock(folder / "lock", timeout=0))
            except Timeout:
                raise UserError(f"{folder}: this grid is running; allowed: to delete when none is") from None
        for path, _, _ in litter:
            if path.is_dir():
                (path / "stage.json").unlink(missing_ok=True)  # first, so that half a stage is none
                shutil.rmtree(path)
                path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
            else:
                path.unlink(missing_ok=True)


def _plans(runs: Path) -> Iterator[dict[str, Any]]:
    for path in runs.glob("*/plan.json"):
        found = None
        with suppress(ValueError):
            found = json.loads(path.read_text())
        if not isinstance(found, dict) or not isinstance(found.get("stage_list"), list):
            what = "not JSON" if found is None else "found no list of stages"
            raise UserError(
                f"{path}: {what}; allowed: the plan that running a grid leaves there. What that grid needs is not "
                "known: run it again"
            )
        yield found


def _of_stages(store: StageStore, needed: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Path, str]]:
    for folder in sorted(path for path in store.root.glob("*") if path.is_dir()):
        if folder.name not in needed:
            yield folder, "a stage in no grid's plan"
        elif store.record(folder.name):
            yield folder / "partial", "checkpoints of a finished stage"
            if not needed[folder.name].get("carried", True):
                why = "the optimizer of a finished stage that no planned stage carries on"
                yield from ((folder / name, why) for name in ("optimizer.json", "optimizer.safetensors"))


def _of_artefacts(root: Path, needed: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        try:
            stage = json.loads((folder / "artefact.json").read_text())["stage"]
        except (OSError, ValueError, KeyError):
            continue  # it is being made
        if stage not in needed:
            yield folder, "derived from a stage in no grid's plan"


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
