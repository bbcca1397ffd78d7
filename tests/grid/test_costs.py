"""What each arm needs and costs, in the plan, and for the results."""

import pytest

from grid.cells import expand
from grid.costs import cell_costs
from grid.spec import Grid, Resources, load_grid
from grid.tree import Tree, describe, stage_memory

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
    ewc = load_grid(GRID, ["interventions={ewc: {kind: ewc, strength: 10}}", "grids=[]"])
    assert Tree(ewc).memory_of("tiny").weights == 3 * Tree(alone).memory_of("tiny").weights
    assert Tree(ewc).memory_of("tiny").activations == Tree(alone).memory_of("tiny").activations
    assert (
        Tree(grid).memory_of("tiny").activations > Tree(alone).memory_of("tiny").activations
    )  # the dearest has more rows
    assert Tree(grid).memory_of("tiny").together == max(
        load_and_need(label) for label in grid.interventions if label != "none"
    )
    watched = load_grid(GRID, ["interventions={none: {kind: none}}", "grids=[]", "stage.evaluation.monitors=true"])
    assert Tree(watched).memory_of("tiny").weights == 2 * Tree(alone).memory_of("tiny").weights  # of the parent's model
    assert "needs of earlier" not in describe(Tree(alone).plan())


def load_and_need(label: str) -> int:
    """Bytes that the grid would need of that intervention alone."""
    whole = load_grid(GRID)
    alone = whole.model_copy(update={"interventions": {label: whole.interventions[label]}, "grids": ()})
    return Tree(alone).memory_of("tiny").together


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
    lines = [line.split() for line in describe(plan).splitlines()]
    shares = grown / weights, (4 * products + 6 * grown + attention) / (6 * products + attention) - 1
    running = 2 * grown / (2 * products + attention / 3)
    assert ["f", "statistics", *(f"{share:+.0%}" for share in (*shares, running)), "same"] in lines
    need = stage_memory(
        grid, "tiny", grid.resources_of("tiny"), next(s for i, s in tree.stages.items() if i == third["id"])
    )
    assert need.weights == 4 * (weights + 2 * grown)
    assert need.gradients == need.optimizer // 2 == 4 * grown  # the trunk has neither gradients nor moments


def route(of: str, baseline: str = "sequential_ab", *more: str) -> tuple[dict, Tree]:
    """Costs and tree of two grids' worth: a routed arm's, on a model of 344,640 parameters."""
    arms = f"interventions={{r: {{kind: route, of: {of}}}}}"
    axes = ["grids=[]", "seeds=[0]", "interleaving_ratios=[0]", "models=[tiny4]", "tokenizer.vocab_size=2048"]
    grid = load_grid(GRID, [arms, *axes, f"baselines=[{baseline}]", *more])
    (cell,) = expand(grid)
    return cell_costs(grid, cell), Tree(grid)


HEAD, MATRICES, ALL = 2048 * 64, 4 * (4 * 64**2 + 3 * 64 * 192), 344_640
FRACTURE = HEAD + 4 * 16 * ((192 + 64) + (64 + 64) + (384 + 64) + (192 + 64))


@pytest.mark.parametrize(
    ("of", "trained"),
    [
        ("{kind: none}", ALL),
        ("{kind: freeze, parts: [bottom]}", ALL - MATRICES // 2 - 4 * 64),
        ("{kind: freeze, parts: [embedding, norms]}", MATRICES),
        ("{kind: freeze, parts: [all]}", 0),
        ("{kind: fracture, rank: 16}", FRACTURE),
        ("{kind: fracture, rank: 16, router: none}", FRACTURE),
    ],
)
def test_a_routed_stage_grows_by_what_its_path_has_trained_and_runs_twice(of, trained):
    known, tree = route(of)
    assert known["growth"] == pytest.approx(trained / ALL)
    assert known["extra_flops"] == -1
    products, attention = HEAD + MATRICES, 12 * 4 * 64 * 64
    grown = trained if "fracture" in of else 0
    assert known["run_flops"] == pytest.approx(1 + 2 * grown / (2 * products + attention / 3))
    last = next(s for s in tree.plan()["stage_list"] if "with route" in s["name"])
    assert (last["parameters"], last["flops"]) == (ALL + trained, 0)


def test_the_growth_of_the_routed_fracture_of_the_shipped_grid_is_58_percent():
    grid = load_grid("configs/grids/fracture.yaml")
    growth = {label: costs["growth"] for label, costs in Tree(grid).plan()["costs"].items()}
    assert growth["route_ungated"] == growth["fracture_lora"] == pytest.approx(0.58, abs=0.005)
    assert growth["route_bayes"] == 1
    assert growth["route_top"] == pytest.approx(0.69, abs=0.005)


def test_of_a_chain_of_routed_fractures_each_model_goes_on_from_the_one_before():
    known, _ = route("{kind: fracture, rank: 16, router: none}", "{abc: [food, automotive, food]}")
    assert known["growth"] == pytest.approx(2 * FRACTURE / ALL)
    passes = 2 * (HEAD + MATRICES) + 4 * 4 * 64 * 64
    assert known["run_flops"] == pytest.approx((3 * passes + 2 * FRACTURE + 4 * FRACTURE) / passes - 1)


def test_learning_again_after_a_mixture_trains_both_its_models():
    _, tree = route("{kind: freeze, parts: [bottom]}", "sequential_ab", "stage.relearning_tokens=50_000")
    (branch,) = tree.cells[0].branches
    plan = next(s for s in tree.plan()["stage_list"] if s["id"] == branch.identity)
    assert plan["parameters"] == 2 * ALL
    assert plan["flops"] == 2 * plan["tokens"] * (6 * (HEAD + MATRICES) + 12 * 4 * 64 * 64)
    need, routed = (stage_memory(tree.grid, "tiny4", Resources(), stage) for stage in (branch, branch.parent))
    assert need.weights == need.gradients == need.optimizer // 2 == 4 * 2 * ALL
    assert (routed.gradients, routed.optimizer) == (0, 0)
    assert routed.weights < need.weights
    assert tree.memory_of("tiny4") == need
