"""What a model gets of GPUs: by the memory that the plan says it needs."""

import pytest
import yaml

from grid.fit import MOST_ON_A_GPU, Gpus, fitted
from grid.spec import Grid, Resources, load_grid
from grid.tree import Tree
from lethe.config import UserError

GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy", "42m"],
    "baselines": ["sequential_ab"],
    "stage": {"tokens": 1_000_000, "batch": 24, "learning_rate": 6e-3},
    "resources": {"default": {"fit": True}},
}


@pytest.fixture
def grid(tmp_path) -> Grid:
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(GRID))
    return load_grid(tmp_path / "g.yaml", [f"storage={tmp_path}"])


def need(grid: Grid, model: str, workers: int) -> int:
    return Tree(grid).memory_of(model, Resources(workers=workers, gpus=1)).together


def test_small_cells_share_a_gpu_and_a_large_one_has_one(grid):
    room = need(grid, "42m", 1)
    found = fitted(grid, Gpus(4, room))
    assert (found.resources["42m"].workers, found.resources["42m"].gpus) == (1, 1)
    toy = found.resources["toy"]
    assert (toy.workers, toy.gpus) == (1, 1 / min(room // need(grid, "toy", 1), MOST_ON_A_GPU))
    assert toy.gpus < 1
    assert fitted(found, Gpus(1, 1)) == found, "what is said is not said again"


def test_what_one_does_not_hold_spans_as_few_as_hold_it(grid):
    room = need(grid, "42m", 1) - 1
    workers = next(n for n in (2, 3, 4, 6, 8) if need(grid, "42m", n) <= room)
    assert fitted(grid, Gpus(8, room)).resources["42m"] == Resources(workers=workers, gpus=1, fit=False)


def test_what_all_together_do_not_hold_is_refused_with_both_sizes(grid):
    with pytest.raises(UserError, match=r"resources of model 42m: found .* for a worker, and 1 GPUs of .*; allowed: "):
        fitted(grid, Gpus(1, need(grid, "42m", 1) - 1))


def test_memory_and_numbers_are_not_both_said(grid, tmp_path):
    with pytest.raises(UserError, match="found fit beside workers or gpus; allowed: one of them"):
        load_grid(tmp_path / "g.yaml", ["resources.default.gpus=0.5"])
