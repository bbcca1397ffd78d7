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
        ("sequential_ab-tiny-r0-none", ("nothing", 0, 0, 0, 0, 0, "same")),
        ("sequential_ab-tiny-r0.05-none", ("text", 0, 0, 0, 0, 0, "replaces")),
        ("sequential_ab-tiny-r0-distill_self", ("samples", 1, 0.25, 0, 1 / 3, 0, "adds")),
        ("sequential_ab-tiny-r0-distill_buffer", ("buffer", 1, 0.25, 0, 1 / 3, 0, "adds")),
        ("sequential_ab-tiny-r0-distill_b", ("nothing", 1, 0, 0, 1 / 3, 0, "same")),
        ("sequential_ab-tiny-r0-replay_self", ("samples", 0, 0.25, 0, 0.25, 0, "adds")),
        ("sequential_ab-tiny-r0-ewc_10", ("statistics", 2, 0, 0, 0, 0, "same")),
        ("sequential_ab-tiny-r0-average_03", ("nothing", 0, 0, 0, -1, 0, "same")),
        ("combined-tiny", (None, None, None, None, None, None, None)),
    ],
)
def test_every_cell_says_what_it_needs_and_costs(grid, cell, expected):
    costs = of(grid, cell)
    shares = ["extra_weights", "extra_rows", "growth", "extra_flops", "run_flops"]
    assert list(costs) == ["needs", *shares, "budget"]
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


def test_what_grows_is_in_the_plan_and_in_the_results():
    """Of d = 64, 2 layers, 192 units, 2,048 rows: counted by hand, of the second fracture of a chain."""
    changes = ["interventions={f: {kind: fracture, rank: 8}, none: {kind: none}}", "grids=[]", "seeds=[0]"]
    chain = "baselines=[{abc: [food, automotive, food]}]"
    grid = load_grid(GRID, [*changes, chain, "interleaving_ratios=[0]", "tokenizer.vocab_size=2048"])
    attention, head = 12 * 2 * 64 * 64, 2048 * 64
    products = 2 * (4 * 64**2 + 3 * 64 * 192) + head
    weights, grown = products + 5 * 64, head + 2 * 8 * ((192 + 64) + (64 + 64) + (384 + 64) + (192 + 64))
    known = of(grid, "abc-tiny-r0-f")
    assert known["growth"] == pytest.approx(2 * grown / weights)
    last = 4 * (products + grown) + 6 * grown + attention
    assert known["extra_flops"] == pytest.approx(last / (6 * products + attention) - 1)
    assert known["run_flops"] == pytest.approx(2 * 2 * grown / (2 * products + attention / 3))

    tree = Tree(grid)
    plan = tree.plan()
    third = next(s for s in plan["stage_list"] if s["name"].startswith("food with fracture"))
    assert third["parameters"] == weights + 2 * grown
    assert third["flops"] == third["tokens"] * last
    assert third["run_flops_per_token"] == 2 * (products + 2 * grown) + attention // 3
    lines = [line.split() for line in describe(plan).splitlines()]
    shares = grown / weights, (4 * products + 6 * grown + attention) / (6 * products + attention) - 1
    running = 2 * grown / (2 * products + attention / 3)
    assert ["f", "statistics", *(f"{share:+.0%}" for share in (*shares, running)), "same"] in lines
    bare = load_grid(GRID, ["interventions={none: {kind: none}}", "grids=[]", "tokenizer.vocab_size=2048"])
    assert memory_of(grid, "tiny").weights == pytest.approx(memory_of(bare, "tiny").weights * (1 + known["growth"]))
    assert (
        memory_of(grid, "tiny").optimizer == 2 * memory_of(grid, "tiny").gradients > memory_of(bare, "tiny").optimizer
    )
