"""What a driver refuses before anything is trained."""

import json
from pathlib import Path

import pytest
import yaml

from grid.driver import _check_definitions
from grid.spec import load_grid
from grid.tree import Tree
from lethe.config import UserError

GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "baselines": ["sequential_ab", {"aba": ["food", "automotive", "food"]}],
    "interventions": {"pull": {"kind": "l2_sp", "strength": 1}},
    "stage": {"tokens": 25_600, "batch": 8, "learning_rate": 6e-3},
}


@pytest.fixture
def again(tmp_path: Path):
    """Asks for the grid of the folder once more, with other fields."""

    def ask(**fields: object) -> None:
        path = tmp_path / "g.yaml"
        path.write_text(yaml.safe_dump(GRID | fields))
        grid = load_grid(path, [f"storage={tmp_path}"])
        plan = Tree(grid).plan()
        _check_definitions(grid, plan)
        grid.folder.mkdir(parents=True, exist_ok=True)
        (grid.folder / "plan.json").write_text(json.dumps(plan))

    ask()
    return ask


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"tokenizer": {"vocab_size": 400}}, "tokenizer"),
        ({"stage": GRID["stage"] | {"tokens": 51_200}}, r"stage\.tokens"),
        ({"stage": GRID["stage"] | {"precision": "bf16"}}, r"stage\.precision"),
        ({"baselines": [{"aba": ["food", "automotive", "automotive"]}]}, "baseline aba"),
        ({"interventions": {"pull": {"kind": "l2_sp", "strength": 2}}}, "intervention pull"),
    ],
)
def test_what_a_cell_s_name_stands_for_stays(again, fields, what):
    with pytest.raises(UserError, match=rf"holds a grid with another {what}; allowed: .*name=ANOTHER"):
        again(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"interleaving_ratios": [0, 0.5], "seeds": [0, 1], "models": ["toy", "tiny"], "description": "more"},
        {"interventions": {"pull": {"kind": "l2_sp", "strength": 1}, "none": {"kind": "none"}}},
        {"baselines": ["combined"]},
        {"stage": GRID["stage"] | {"checkpoint_every": 7, "evaluation": {"monitors": True}}},
    ],
)
def test_axes_grow_and_shrink_and_curves_show_more(again, fields):
    again(**fields)
    again()
