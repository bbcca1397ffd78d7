"""What could be deleted of a storage, by the plans of its grids, and that what is needed stays as it is."""

import json
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from grid import clean
from lethe.config import UserError
from lethe.files import sha256, write_json
from lethe.training.store import StageStore
from ray_jobs.clean import main

NEEDED = {"plain": False, "carried": True}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two grids that need a stage each, and what is left of others."""
    runs = tmp_path / "runs"
    store = StageStore(runs / "stages")
    for key in (*NEEDED, "gone"):
        store.finish(key, {}, {"w": torch.ones(4)})
        store.write_optimizer(key, {"m": torch.ones(8)})
        with store.own(key):
            pass
    write_json(store.folder("plain") / "partial" / "00000100" / "state.json", {})  # killed just before it was removed
    write_json(store.folder("training") / "partial" / "00000100" / "state.json", {})
    for key, stage in (("kept", "plain"), ("left", "gone")):
        write_json(runs / "artefacts" / key / "artefact.json", {"stage": stage})
    for key, carried in (*NEEDED.items(), ("training", False)):
        write_json(runs / f"grid_{key}" / "plan.json", {"stage_list": [{"key": key, "carried": carried}]})
    write_json(runs / "grid_plain" / "ray" / "session.json", {})
    (runs / "grid_plain" / "lock").touch()
    return runs


LITTER = {
    "stages/gone",
    "stages/plain/partial",
    "stages/plain/optimizer.json",
    "stages/plain/optimizer.safetensors",
    "artefacts/left",
    "grid_plain/ray",
}


def hashes(runs: Path) -> dict[str, str]:
    files = (path for path in runs.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(runs)): sha256(path) for path in files}


def test_what_no_grid_needs_is_found_and_deleted_and_nothing_else(runs):
    found = clean.find(runs)
    assert {str(litter.path.relative_to(runs)) for litter in found} == LITTER
    assert all(litter.bytes > 0 for litter in found)
    before = hashes(runs)
    clean.delete(runs, found)
    gone = {name for name in before if any(name.startswith(f"{path}/") or name == path for path in LITTER)}
    assert hashes(runs) == {name: before[name] for name in before.keys() - gone - {"stages/gone.lock"}}
    assert clean.find(runs) == []
    store = StageStore(runs / "stages")
    assert store.weights("plain")["w"].tolist() == [1, 1, 1, 1]
    assert store.optimizer("carried")["m"].sum() == 8


def test_a_plan_that_is_not_run_yet_counts_too(runs):
    found = clean.find(runs, [{"stage_list": [{"key": "gone", "carried": True}]}])
    assert {str(litter.path.relative_to(runs)) for litter in found} == LITTER - {"stages/gone", "artefacts/left"}


def test_nothing_is_deleted_while_a_grid_runs(runs):
    found, before = clean.find(runs), hashes(runs)
    with FileLock(runs / "grid_plain" / "lock"):
        assert {*found} - {*clean.find(runs)} == {each for each in found if each.path.name == "ray"}
    with FileLock(runs / "grid_carried" / "lock"), pytest.raises(UserError, match="grid_carried: this grid is running"):
        clean.delete(runs, found)
    assert hashes(runs) == before


def test_a_broken_plan_is_named_for_what_it_needs_is_not_known(runs):
    (runs / "grid_plain" / "plan.json").write_text("{")
    with pytest.raises(UserError, match="grid_plain/plan.json: not JSON; allowed: the plan that running a grid leaves"):
        clean.find(runs)
    for other in ("[1, 2]", "{}", '{"stage_list": 3}'):
        (runs / "grid_plain" / "plan.json").write_text(other)
        with pytest.raises(UserError, match="grid_plain/plan.json: found no list of stages; allowed: "):
            clean.find(runs)


def test_the_program_deletes_only_when_told(runs, capsys):
    command = ["configs/grids/quickstart.yaml", f"storage={runs.parent}"]
    before = hashes(runs)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "runs/stages/gone  a stage in no grid's plan" in said
    assert said.splitlines()[-1].endswith("could be deleted (--delete)")
    assert hashes(runs) == before
    assert main([*command, "--delete", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {Path(file["path"]).name for file in told["files"]} == {Path(path).name for path in LITTER}
    assert told["bytes"] == sum(file["bytes"] for file in told["files"])
    assert main(command) == 0
    assert capsys.readouterr().out.strip().endswith("nothing could be deleted")
