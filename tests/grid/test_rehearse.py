"""The rehearsal's parts without Ray: what is trained, what is judged, and what is made of it."""

import pytest

from grid.rehearse import describe, estimate, is_ok, short_grid, verdict
from grid.spec import Grid, load_grid
from grid.tree import Tree


def load(*overrides: str) -> Grid:
    return load_grid("configs/grids/quickstart.yaml", overrides)


def measured(**change: float) -> dict:
    model = {"steps": 200, "loss_untrained": 8.0, "unigram_entropy": 6.0, "loss": 5.0, "peak_bytes": 2**30}
    return model | {"parameters": 1000, "device": "here", "available_bytes": 2**31, "tokens_per_second": 1e3} | change


def test_a_short_stage_is_the_grids_own_cut_to_200_steps():
    tree = Tree(short_grid(load("stage.tokens=10_000_000", "seeds=[5, 9]"), "tiny", copies=2))
    stages = [cell.stages for cell in tree.cells]
    assert [(len(s), s[0].steps, s[0].mixture, s[0].seed) for s in stages] == [
        (1, 200, {"food": 1.0}, 5),
        (1, 200, {"food": 1.0}, 6),
    ]
    assert stages[0][0].recipe == load().stage.recipe
    # One budget after warm-up and decay belong to the stage, so a shorter grid is rehearsed at its own length.
    assert Tree(short_grid(load("stage.tokens=51_200"), "tiny", 1)).cells[0].stages[0].steps == 100


def test_no_more_copies_than_the_grid_has_cells_of_the_model():
    grid = load("models=[tiny, toy]", "baselines=[combined]", "seeds=[0, 1, 2]")
    assert len(Tree(short_grid(grid, "toy", copies=50)).cells) == 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "ok"),
        ({"loss": 7.0}, "ok"),  # exactly half of the way
        (
            {"loss": 7.01},
            "in 200 steps the loss fell only 49.5% of the way from ln V, 8.00, to the unigram entropy, 6.00",
        ),
        ({"loss": 8.5}, "the loss fell only -25.0% of the way"),
        ({"peak_bytes": 2**32}, "a worker took 4.00 GiB of the 2.00 GiB that it has (here)"),
        ({"peak_bytes": 2**32, "available_bytes": None}, "ok"),
    ],
)
def test_the_verdict_is_ok_or_says_by_how_much_not(change: dict, expected: str):
    assert expected in verdict(measured(**change), "finished", None)
    assert (verdict(measured(**change), "finished", None) == "ok") is (expected == "ok")


def test_divergence_is_a_verdict_and_leaves_the_hours_unknown():
    grid = load("models=[tiny, toy]")
    tree = Tree(grid)
    bad = {"steps": 200, "parameters": 1, "loss_untrained": 8.0, "available_bytes": None, "slots": 1}
    bad["verdict"] = verdict(bad, "diverged", "the loss is not a number at step 3")
    fine = measured(seconds_per_evaluation=0.1, slots=1, fallen=1.5) | {"verdict": "ok"}
    models = {"tiny": fine, "toy": bad}
    result = {"models": models, **estimate(tree, tree.stages, models, 2.0)}
    assert result["hours"] is result["device_hours"] is result["money"] is None
    assert result["stages"] == len(tree.stages)
    assert not is_ok(result)
    text = describe(result)
    assert "diverged: the loss is not a number at step 3" in text
    assert "hours are not known before every model has been measured" in text


def test_hours_and_money_by_hand():
    grid = load(
        "stage.evaluation.marks=1",
        "stage.tokens=51_200",  # 100 steps: marks at 0 and, dense, 1, 2, 4, ..., 64, then 100: 9 of them
        "seeds=[0]",
        "interleaving_ratios=[0]",
        "resources={tiny: {workers: 2, gpus: 0.5, cpus: 3}}",
    )
    tree = Tree(grid)
    models = {"tiny": measured(tokens_per_second=512.0, seconds_per_evaluation=2.0, slots=2)}
    result = estimate(tree, tree.stages, models, price=36.0)
    # Four stages of 100 steps and the combined one of 200 (10 marks), at a step a second.
    seconds = 4 * (100 + 9 * 2) + (200 + 10 * 2)
    assert result["tokens"] == 600 * 512
    assert result["hours"] == pytest.approx(max(seconds / 2, 2 * 118) / 3600)
    assert result["device_hours"] == pytest.approx(seconds * 2 * 0.5 / 3600)
    assert result["money"] == pytest.approx(36 * result["device_hours"])


def test_a_sequence_cannot_be_spread_over_slots():
    tree = Tree(load("seeds=[0]", "interleaving_ratios=[0]", "stage.evaluation.marks=1", "stage.tokens=51_200"))
    models = {"tiny": measured(tokens_per_second=512.0, seconds_per_evaluation=0.0, slots=1000)}
    assert estimate(tree, tree.stages, models, None)["hours"] == pytest.approx(200 / 3600)
    assert estimate(tree, tree.stages, models, None)["money"] is None


def test_what_an_intervention_computes_takes_time():
    axes = ["seeds=[0]", "interleaving_ratios=[0]", "baselines=[sequential_ab]", "stage.tokens=51_200"]
    hours = []
    for rows in (0.25, 1):
        grid = load(*axes, f"interventions={{self: {{kind: distill, on: self_samples, rows: {rows}}}}}")
        models = {"tiny": measured(tokens_per_second=512.0, seconds_per_evaluation=0.0, slots=1)}
        hours.append(3600 * (estimate(tree := Tree(grid), tree.stages, models, None)["hours"] or 0) - 100)
    # Rows beside the batch, forward and backward in the student (1) and forward in the teacher (1 / 3).
    assert hours == pytest.approx([100 * (1 + 0.25 * 4 / 3), 100 * (1 + 4 / 3)])


def test_a_mixture_takes_two_passes_to_evaluate_and_nothing_to_train():
    axes = ["seeds=[0]", "interleaving_ratios=[0]", "baselines=[sequential_ab]", "stage.evaluation.marks=1"]
    tree = Tree(load(*axes, "interventions={r: {kind: route}}", "stage.tokens=51_200"))
    models = {"tiny": measured(tokens_per_second=512.0, seconds_per_evaluation=2.0, slots=1)}
    # Two plain stages of 100 steps with 9 marks, and a mixture of the two with one.
    seconds = 2 * (100 + 9 * 2) + 2 * 2
    assert estimate(tree, tree.stages, models, None)["device_hours"] == pytest.approx(seconds / 3600)


def test_finished_stages_cost_nothing():
    tree = Tree(load())
    models = {"tiny": measured(seconds_per_evaluation=1.0, slots=2)}
    assert estimate(tree, [], models, 1.0) == {
        "stages": 0,
        "tokens": 0,
        "hours": 0,
        "device_hours": 0,
        "price": 1.0,
        "money": 0,
    }
