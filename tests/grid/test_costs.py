"""What each arm needs and costs, in the plan, and for the results."""

import pytest

from grid.cells import expand
from grid.costs import cell_costs
from grid.spec import Grid, load_grid
from grid.tree import Tree, describe, memory_of

GRID = "configs/grids/interventions.yaml"


@pytest.fixture(scope="module")
def grid() -> Grid:
    return load_grid(GRID)


def of(grid: Grid, name: str) -> dict:
    return cell_costs(grid, next(cell for cell in expand(grid) if cell.name == f"{name}-s0"))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("sequential_ab-tiny-r0-none", ("nothing", 0, 0, 0, "same")),
        ("sequential_ab-tiny-r0.05-none", ("text", 0, 0, 0, "replaces")),
        ("sequential_ab-tiny-r0-distill_self", ("samples", 1, 0.25, 1 / 3, "adds")),
        ("sequential_ab-tiny-r0-distill_buffer", ("buffer", 1, 0.25, 1 / 3, "adds")),
        ("sequential_ab-tiny-r0-distill_b", ("nothing", 1, 0, 1 / 3, "same")),
        ("sequential_ab-tiny-r0-replay_self", ("samples", 0, 0.25, 0.25, "adds")),
        ("sequential_ab-tiny-r0-ewc_10", ("statistics", 2, 0, 0, "same")),
        ("sequential_ab-tiny-r0-average_03", ("nothing", 0, 0, -1, "same")),
        ("combined-tiny", (None, None, None, None, None)),
    ],
)
def test_every_cell_says_what_it_needs_and_costs(grid, cell, expected):
    costs = of(grid, cell)
    assert list(costs) == ["needs", "extra_weights", "extra_rows", "extra_flops", "budget"]
    assert tuple(costs.values()) == pytest.approx(expected)


def test_added_interleaving_adds():
    grid = load_grid(GRID, ["stage.interleaving=add"])
    assert of(grid, "sequential_ab-tiny-r0.05-none")["budget"] == "adds"


def test_the_plan_counts_it(grid):
    plan = Tree(grid).plan()
    flops = {stage["name"]: stage["flops"] for stage in plan["stage_list"]}
    plain = flops["automotive after food"]
    assert flops["automotive with distill (rows 1) after food"] == pytest.approx(plain * 7 / 3)
    assert flops["automotive with average (share 0.3) after food"] == 0
    assert plan["costs"]["distill_self"]["needs"] == "samples"
    assert plan["costs"]["interleaving"]["needs"] == "text"
    assert "\n  distill_self        samples " in describe(plan)
    alone = load_grid(GRID, ["interventions={none: {kind: none}}", "grids=[]"])
    assert memory_of(grid, "tiny").weights == 3 * memory_of(alone, "tiny").weights
    assert memory_of(grid, "tiny").activations > memory_of(alone, "tiny").activations
    watched = load_grid(GRID, ["interventions={none: {kind: none}}", "grids=[]", "stage.evaluation.monitors=true"])
    assert memory_of(watched, "tiny").weights == 2 * memory_of(alone, "tiny").weights  # of the parent's model
    assert "needs of earlier" not in describe(Tree(alone).plan())


def test_what_an_average_is_made_of_is_in_its_plan_once(grid):
    """The cells of averages train nothing themselves, and share plain training with its own cell."""
    tree = Tree(grid)
    plain = next(cell for cell in tree.cells if cell.name == "sequential_ab-tiny-r0-none-s0")
    assert tree.uses[plain.stages[-1].identity] == 5
    derived = [s for s in tree.stages.values() if not s.steps]
    assert len(derived) == 4 * 3
    assert all(s.reads[0].intervention.kind == "none" and s.reads[0].steps for s in derived)
