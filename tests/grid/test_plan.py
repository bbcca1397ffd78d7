"""What a plan says of each model: parameters, FLOPs, memory, and whether that fits."""

import json
import subprocess
import sys

import pytest

from grid.spec import Grid, load_grid
from grid.tree import Tree, describe, with_rooms
from lethe.devices import Room
from lethe.model.cost import memory

GPU = "configs/grids/fineweb.yaml"


def load(*overrides: str) -> Grid:
    return load_grid(GPU, overrides)


def test_a_worker_needs_its_micro_batch_and_its_share_of_an_evaluation():
    overrides = [
        "models=[5m, 236m]",
        "resources={5m: {micro_batch: 16}, 236m: {workers: 8, gpus: 1}}",
        "stage.evaluation.sequences=100",
    ]
    grid = load(*overrides)
    assert Tree(grid).memory_of("5m") == memory(grid.models["5m"], 32768, rows=16, precision="bf16", held_out=100)
    assert Tree(grid).memory_of("236m") == memory(
        grid.models["236m"], 32768, rows=256 // 8, precision="bf16", held_out=13, gpu=True
    )


def test_the_plan_names_parameters_flops_and_every_part_of_the_memory():
    grid = load()
    model = Tree(grid).plan()["models"]["236m"]
    assert model["parameters"] == 235_963_392
    assert model["flops_per_token"] == 1_616_904_192
    assert model["memory"] == Tree(grid).memory_of("236m")._asdict() | {
        "together": Tree(grid).memory_of("236m").together
    }
    assert "236m: 235,963,392 parameters, 1,616,904,192 FLOPs a token" in describe(Tree(grid).plan())


@pytest.mark.parametrize(
    ("room", "fits", "text"),
    [
        (Room("NVIDIA H200", 140 * 2**30, 1), True, "; fits in 140.00 GiB (NVIDIA H200)"),
        (Room("NVIDIA L4", 6 * 2**30, 4), False, "; DOES NOT FIT in 6.00 GiB (NVIDIA L4, one of 4 workers at once)"),
        (Room("unknown GPU", None, 1), None, "; unknown GPU: whether that fits is not known here"),
    ],
)
def test_whether_it_fits_is_said_or_said_to_be_unknown(room: Room, fits: bool | None, text: str):
    grid = load()
    plan = with_rooms(Tree(grid).plan(), dict.fromkeys(grid.models, room))
    assert plan["models"]["5m"]["memory"]["fits"] is fits
    assert plan["models"]["5m"]["memory"]["available"] == room.bytes
    assert describe(plan).count(text) == 7


def test_the_program_plans_without_torch_and_ray(tmp_path):
    code = f"""
import sys
from ray_jobs.run_grid import main
main(["configs/grids/quickstart.yaml", "--plan", "--json", "storage={tmp_path}"])
sys.exit(bool({{"torch", "ray", "mlflow"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    need = json.loads(done.stdout)["models"]["tiny"]["memory"]
    assert need["device"] == "this machine"
    assert need["fits"] is (need["together"] <= need["available"])
