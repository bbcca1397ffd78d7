"""From a YAML to cells and the stage tree: what merges, what collapses, and what a ratio means."""

import pytest
import yaml

from grid.cells import expand
from grid.spec import load_grid
from grid.tree import Tree, describe
from lethe.config import UserError

BASE = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "baselines": ["sequential_ab", "sequential_ba", "combined"],
    "interleaving_ratios": [0, 0.05, 0.25],
    "seeds": [0, 1],
    "stage": {"tokens": 25_600, "batch": 8, "learning_rate": 6e-3},
}


@pytest.fixture
def grid(tmp_path):
    def load(*overrides, **fields):
        (tmp_path / "g.yaml").write_text(yaml.safe_dump(BASE | fields))
        return load_grid(tmp_path / "g.yaml", list(overrides))

    return load


def refused(grid, *overrides, **fields) -> str:
    with pytest.raises(UserError) as caught:
        grid(*overrides, **fields)
    return str(caught.value)


def test_the_quickstart_grid_is_14_cells_on_18_stages():
    plan = Tree(load_grid("configs/grids/quickstart.yaml")).plan()
    assert (plan["cells"], plan["stages"]) == (14, 18)
    step = 8 * 64
    budget, double = round(150_000 / step) * step, round(300_000 / step) * step
    assert plan["tokens"] == 16 * budget + 2 * double
    assert plan["tokens_without_sharing"] == 24 * budget + 2 * double
    assert "14 cells, 18 stages" in describe(plan)


def test_cells_are_named_by_what_acts(grid):
    assert [cell.name for cell in expand(grid(seeds=[0], interleaving_ratios=[0, 0.05]))] == [
        "sequential_ab-toy-r0-none-s0",
        "sequential_ab-toy-r0.05-none-s0",
        "sequential_ba-toy-r0-none-s0",
        "sequential_ba-toy-r0.05-none-s0",
        "combined-toy-s0",
    ]


def test_a_ratio_gives_its_share_to_what_was_seen_in_proportion_to_tokens(grid):
    three = {"aba": ["food", {"food": 0.5, "automotive": 0.5}, "automotive"]}
    (cell,) = expand(grid(baselines=[three], interleaving_ratios=[0.25], seeds=[0]))
    first, second, third = cell.stages
    assert first.mixture == {"food": 1}
    assert second.mixture == {"automotive": 0.375, "food": 0.625}
    assert second.tokens == 2 * first.tokens  # the budget of both
    seen_food = (1 + 2 * 0.625) / 3
    assert third.mixture["food"] == pytest.approx(0.25 * seen_food, abs=1e-3)


def test_replace_keeps_the_tokens_and_add_keeps_the_new_ones(grid):
    replaced = expand(grid(interleaving_ratios=[0.25], seeds=[0]))[0].stages[1]
    added = expand(grid("stage.interleaving=add", interleaving_ratios=[0.25], seeds=[0]))[0].stages[1]
    assert replaced.tokens == 25_600
    assert added.tokens == round(25_600 / 0.75)
    assert added.drawn["automotive"] == pytest.approx(25_600 / 32, abs=8)


def test_more_of_the_same_corpus_collapses_over_ratios_and_reads_on(grid):
    (cell,) = expand(grid(baselines=[{"aa": ["food", "food"]}], seeds=[0]))
    assert cell.name == "aa-toy-none-s0"
    assert cell.ratio is None
    assert cell.stages[1].offsets == {"food": cell.stages[0].drawn["food"]}


def test_interventions_act_only_after_a_switch(grid):
    fields = {"interventions": {"none": {"kind": "none"}, "pull": {"kind": "l2_sp", "strength": 10}}, "seeds": [0]}
    tree = Tree(grid(interleaving_ratios=[0], **fields))
    assert [cell.name for cell in tree.cells if cell.baseline != "sequential_ba"] == [
        "sequential_ab-toy-r0-none-s0",
        "sequential_ab-toy-r0-pull-s0",
        "combined-toy-s0",
    ]
    assert len(tree.stages) == 2 * (1 + 2) + 1


def test_relearning_is_a_side_branch_of_what_forgot(grid):
    plain, relearnt = (Tree(grid(*overrides, seeds=[0])) for overrides in ((), ("stage.relearning_tokens=2560",)))
    assert [cell.name for cell in relearnt.cells] == [cell.name for cell in plain.cells]
    assert [cell.stages for cell in relearnt.cells] == [cell.stages for cell in plain.cells]
    assert not any(cell.branches for cell in plain.cells)
    added = relearnt.stages.keys() - plain.stages.keys()
    assert len(added) == 6  # two orders, three ratios; combined forgets nothing
    for cell in relearnt.cells:
        earlier = {"sequential_ab": "food", "sequential_ba": "automotive"}.get(cell.baseline)
        assert [branch.mixture for branch in cell.branches] == ([{earlier: 1}] if earlier else [])
        for branch in cell.branches:
            assert branch.parent == cell.stages[-1]
            assert (branch.tokens, branch.intervention.kind) == (2560, "none")
            assert branch.identity in added and branch.identity in cell.needed
    assert relearnt.plan()["tokens_without_sharing"] == plain.plan()["tokens_without_sharing"] + 6 * 2560


def test_relearning_takes_up_each_corpus_that_was_left(grid):
    three = {"three": ["food", {"food": 0.5, "automotive": 0.5}, "automotive"], "aba": ["food", "automotive", "food"]}
    cells = expand(grid("stage.relearning_tokens=2560", baselines=[three], interleaving_ratios=[0], seeds=[0]))
    taken_up = {cell.baseline: [[*branch.mixture] for branch in cell.branches] for cell in cells}
    assert taken_up == {"three": [["food"]], "aba": [["automotive"]]}
    back = expand(grid("stage.tokens=2560", baselines=[{"back": ["food", "automotive", "food"]}], seeds=[0]))[0]
    (branch,) = expand(grid("stage.tokens=2560", "stage.relearning_tokens=2560", seeds=[0]))[0].branches
    assert branch.identity == back.stages[-1].identity  # a stage like any other


def test_a_label_is_not_part_of_a_stage(grid):
    one, other = (
        expand(grid(interventions={label: {"kind": "l2_sp", "strength": 10}}, seeds=[0]))[0] for label in ("x", "y")
    )
    assert one.stages[-1].identity == other.stages[-1].identity


def test_products_are_united_without_doubles(grid):
    tree = Tree(
        grid(
            interventions={"none": {"kind": "none"}, "pull": {"kind": "l2_sp", "strength": 10}},
            grids=[{"interventions": ["none"]}, {"interleaving_ratios": [0]}],
            baselines=["sequential_ab"],
            seeds=[0],
        )
    )
    assert [cell.name.split("-", 2)[2] for cell in tree.cells] == [
        "r0-none-s0",
        "r0.05-none-s0",
        "r0.25-none-s0",
        "r0-pull-s0",
    ]


def test_another_seed_ratio_or_corpus_changes_no_other_cell(grid):
    before = {cell.name: cell.stages[-1].identity for cell in expand(grid())}
    after = {
        cell.name: cell.stages[-1].identity for cell in expand(grid(seeds=[2, 1, 0], interleaving_ratios=[0.5, 0]))
    }
    assert all(after[name] == before[name] for name in after.keys() & before.keys())
    assert len(after.keys() & before.keys()) == 6


def test_every_problem_of_a_grid_is_named_at_once(grid):
    message = refused(
        grid,
        models=["toyy"],
        interleaving_ratios=[0, 1.0],
        seeds=[-1],
        interventions={"pull": {"kind": "l2_sp", "strenght": 1}},
        surprise=1,
    )
    for expected in (
        "models: found 'toyy' (did you mean 'toy'?); allowed: 110m, 13m,",
        "interleaving_ratios[1]: found 1.0; allowed: less than 1",
        "seeds[0]: found -1; allowed: greater than or equal to 0",
        "interventions.pull: strength",
        "unknown field 'surprise'",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corpora": ["fod"]}, "corpora: found 'fod' (did you mean 'food'?); allowed: automotive, fiction, food"),
        ({"baselines": ["sequential"]}, "found 'sequential'; allowed: sequential_ab, sequential_ba, combined"),
        ({"baselines": [{"x": ["food", "sport"]}]}, "found 'sport'; allowed: the corpora of this grid"),
        ({"corpora": ["food"]}, "'sequential_ab' is defined for two corpora, found 1"),
        ({"baselines": [{"x": [{"food": 0}]}]}, "at least one weight above 0"),
        ({"interventions": {"x": {"kind": "magic"}}}, "found 'magic'; allowed: average, distill,"),
        ({"stage": BASE["stage"] | {"tokens": 100}}, "stage.tokens: found 100; allowed: at least one batch"),
        (
            {"stage": BASE["stage"] | {"relearning_tokens": 9}},
            "stage.relearning_tokens: found 9; allowed: at least one",
        ),
        ({"resources": {"toy": {"workers": 3}}}, "stage.batch: found 8; allowed: a multiple of the 3 workers x 1"),
        ({"resources": {"toyy": {}}}, "resources: found 'toyy'; allowed: default, toy"),
        ({"name": "../x"}, "name: found '../x'"),
        ({"grids": [{"models": ["tiny"]}]}, "grids[0].models: found 'tiny'; allowed: toy"),
    ],
)
def test_a_wrong_grid_is_refused_by_field(grid, fields, message):
    assert message in refused(grid, **fields)


def test_a_relative_storage_is_refused_under_a_job(grid, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "storage: found '.'; allowed: an absolute path" in refused(grid)
    assert grid(f"storage={tmp_path}").storage == tmp_path
