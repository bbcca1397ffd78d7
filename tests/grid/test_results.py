"""From the stage store to rows: every number against the curves it comes from, worked out apart."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from grid.driver import keys_of
from grid.queue import Outcome
from grid.results import Results, forgetting_table
from grid.spec import Grid, load_grid
from grid.tree import Tree
from lethe.devices import peak_flops
from lethe.training.job import Job
from lethe.training.loop import evaluations, run_stage
from lethe.training.store import StageStore
from lethe.worker import Worker

GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "baselines": ["sequential_ab", "sequential_ba", "combined"],
    "interleaving_ratios": [0, 0.25],
    "seeds": [0],
    "stage": {"tokens": 25_600, "batch": 8, "learning_rate": 6e-3},
}
FINISHED = Outcome("finished")


def load(folder, *overrides: str) -> Grid:
    folder.mkdir(exist_ok=True)
    (folder / "g.yaml").write_text(yaml.safe_dump(GRID | {"storage": str(folder)}))
    return load_grid(folder / "g.yaml", overrides)


class Written:
    """A store into which curves are written by hand: each stage of a tree runs straight between two losses."""

    def __init__(self, grid: Grid, processor: str = "unknown") -> None:
        self.processor = processor
        self.tree, self.store = Tree(grid), StageStore(grid.storage / "runs" / "stages")
        self.keys = {identity: f"key-{identity}" for identity in self.tree.stages}
        self.results = Results(grid, self.tree.cells, self.store, self.keys, "measured")

    def write(self, identity: str, food: tuple[float, ...], automotive: tuple[float, ...], **record: object) -> None:
        stage, rows = self.tree.stages[identity], []
        steps = np.linspace(0, stage.steps, len(food)).round().astype(int)
        for step, *losses in zip(steps.tolist(), food, automotive, strict=True):
            for x, loss in zip(("food", "automotive"), losses, strict=True):
                at = (step, step * stage.tokens_per_step, step * 0.01)
                rows += [(*at, f"loss/{x}", loss), (*at, f"bpb/{x}", loss / 3)]
        made = {"processor": self.processor, "ranks": 1}
        key = self.keys[identity]
        self.store.write_curve(key, "measured", rows)
        self.store.finish(key, {"made_with": made, "vocab_size": 320, **record}, {"w": torch.zeros(1)})

    def row(self, name: str) -> dict:
        (cell,) = (cell for cell in self.tree.cells if cell.name == name)
        return self.results.row(cell, FINISHED)

    def stages_of(self, name: str) -> list[str]:
        return list(next(cell for cell in self.tree.cells if cell.name == name).needed)


AB, BA, COMBINED = "sequential_ab-toy-r0-none-s0", "sequential_ba-toy-r0-none-s0", "combined-toy-s0"


@pytest.fixture
def written(tmp_path) -> Written:
    """Food then automotive, by hand; the other cells are not there yet."""
    store = Written(load(tmp_path, "stage.relearning_tokens=12800"))
    first, second, again = store.stages_of(AB)
    store.write(first, (8, 6, 4), (8, 7, 6.5))
    store.write(second, (4, 6, 5.5), (6.5, 5, 4.75))
    store.write(again, (5.5, 4.5, 3.5), (4.75, 5, 5.5))
    return store


def test_what_a_cell_needs_of_others_is_null_until_they_are_there(written):
    row = written.row(AB)
    assert row["forgetting/food"] == 1.5
    assert row["fraction_lost/food"] is row["gap_to_combined/food"] is row["intransigence/automotive"] is None
    written.write(written.stages_of(BA)[0], (8, 7.5, 7), (8, 5, 4.5))
    assert written.row(AB)["fraction_lost/food"] == pytest.approx(0.5)  # of 7 - 4
    written.write(written.stages_of(COMBINED)[0], (8, 5, 4.25), (8, 6, 4.5))
    row = written.row(AB)
    assert row["gap_to_combined/food"] == pytest.approx(1.25)
    assert row["gap_to_combined_bpb/food"] == pytest.approx(1.25 / 3)
    assert row["intransigence/automotive"] == pytest.approx(0.25)
    assert row["forward_transfer"] == pytest.approx(1.5) and row["backward_transfer"] == pytest.approx(-1.5)


def test_a_branch_gives_its_metric_and_is_no_part_of_the_cell(written):
    row = written.row(AB)
    # Back at 4 halfway between the marks at 25 and 50 steps of 256 tokens; at first it took 100 steps.
    assert row["relearning_savings/food"] == pytest.approx(1 - 37.5 / 100)
    assert row["relearning_savings/automotive"] is None
    assert (row["final_loss/food"], row["tokens"]) == (5.5, 51_200)
    (cell,) = (cell for cell in written.tree.cells if cell.name == AB)
    assert row["stage_key"] == written.keys[cell.stages[-1].identity]
    curve = written.results.curve(cell).to_pylist()
    branch = [point for point in curve if point["stage"] == 2]
    sequence = [point for point in curve if point not in branch]
    assert {point["stage"] for point in sequence} == {0, 1} and max(point["tokens"] for point in sequence) == 51_200
    again = [(point["tokens"], point["value"]) for point in branch if point["name"] == "relearning/food/loss/food"]
    assert again == [(51_200, 5.5), (57_600, 4.5), (64_000, 3.5)]
    assert all(point["name"].startswith("relearning/food/") for point in branch)
    assert not any(point["name"].startswith("relearning/") for point in sequence)


@pytest.mark.parametrize(
    ("intervention", "share"),
    [
        ("{kind: none}", lambda products, attention: 1),
        ("{kind: replay_self, rows: 0.5}", lambda products, attention: 1.5),
        (
            "{kind: fracture, rank: 2, embedding: none}",  # beside every matrix, in + out of it; the trunk stands still
            lambda products, attention: (
                (4 * products + 6 * 2 * (128 + 64 + 2 * 128 + 32 + 160) + attention) / (6 * products + attention)
            ),
        ),
        ("{kind: route}", lambda products, attention: 0),  # derived without a step
    ],
)
def test_utilisation_counts_what_has_grown_and_what_the_intervention_computes(tmp_path, intervention, share):
    overrides = ["baselines=[sequential_ab]", "interleaving_ratios=[0]", f"interventions={{x: {intervention}}}"]
    store = Written(load(tmp_path, *overrides), "NVIDIA H200")
    name = "sequential_ab-toy-r0-x-s0"
    first, *_, last = store.stages_of(name)
    for identity in store.stages_of(name):
        store.write(identity, (8, 6, 4), (8, 7, 6.5))
    (cell,) = store.tree.cells
    model, steps = cell.stages[0].model, store.tree.stages[first].steps
    d, f = model.d_model, model.d_ff
    assert (model.layers, d, f) == (1, 32, 128)
    products, attention = 4 * d * d + 3 * d * f + 320 * d, 12 * d * model.context
    a_stage = steps * cell.stages[0].tokens_per_step * (6 * products + attention)
    done = a_stage * (1 + share(products, attention))
    peak = peak_flops("NVIDIA H200", "fp32")
    seconds = 0.01 * sum(store.tree.stages[identity].steps for identity in (first, last))
    assert store.row(name)["mfu"] == pytest.approx(done / (seconds * peak))


@pytest.mark.parametrize(("cut", "spent", "growth"), [(7, 7, True), (None, 0, False)])
def test_what_was_spent_before_a_cut_counts_and_what_never_grew_does_not(tmp_path, cut, spent, growth):
    drift = "interventions={cut: {kind: fracture, trigger: drift}}"
    store, name = Written(load(tmp_path, drift)), "sequential_ab-toy-r0-cut-s0"
    first, control, last = store.stages_of(name)
    store.write(first, (8, 4), (8, 6.5))
    store.write(control, (4, 3.5), (6.5, 6.5))
    store.write(last, (4, 5.5), (6.5, 4.75), spent_steps=spent, intervention={"cut": cut, "threshold": 0.5})
    row = store.row(name)
    assert row["spent_tokens"] == spent * 256
    assert all((row[column] > 0) == growth for column in ("growth", "extra_flops", "run_flops"))


def test_every_metric_of_every_cell_is_in_the_file(written, tmp_path):
    outcomes = {cell.name: Outcome("failed", "no disk") for cell in written.tree.cells} | {AB: FINISHED}
    (tmp_path / "runs" / "g").mkdir(parents=True, exist_ok=True)
    written.results.write(outcomes)
    (row,) = (r for r in pq.read_table(tmp_path / "runs" / "g" / "results.parquet").to_pylist() if r["cell"] == AB)
    assert row == written.row(AB)
    assert {"stability_gap/food", "forgetting_best_bpb/food", "forgetting_exponent/food"} <= row.keys()


def seeds(values: list[float], **fields) -> list[dict]:
    point = {"baseline": "sequential_ab", "model": "toy", "interleaving_ratio": 0.0, "intervention": "none"} | fields
    rows = [point | {"status": "finished", "seed": i, "forgetting/food": v} for i, v in enumerate(values)]
    return [row | {"fraction_lost/food": 0.8, "final_loss/food": 5 + row["forgetting/food"]} for row in rows]


def test_the_terminals_table_has_the_interval_beside_the_mean():
    text = forgetting_table(seeds([1.37, 1.41, 1.52]), ["food"])
    assert "3      +1.433 ±0.193 (80%)     6.433" in text  # t of 2 degrees of freedom 4.303, sd .0777
    assert "95 % interval" in text and "one seed" not in text


def test_one_seed_is_said_to_have_no_interval():
    text = forgetting_table(seeds([1.37]) + seeds([1.4, 1.5], interleaving_ratio=0.05), ["food"])
    assert "1      +1.370 (80%)" in text and "one seed: there is no interval" in text
    assert "±" not in forgetting_table(seeds([1.37]), ["food"])


def test_relearning_is_faster_than_learning(tmp_path, toy_tokens):
    """Real training: the savings follow from the two curves on disk, read here on a fine grid."""
    overrides = ["stage.relearning_tokens=12800", "baselines=[sequential_ab]", "interleaving_ratios=[0]"]
    grid = load(tmp_path, *overrides)
    tree, store = Tree(grid), StageStore(tmp_path / "stages")
    (cell,) = tree.cells
    jobs = [Job(stage, toy_tokens, store, tuple(grid.corpora), grid.stage.evaluation) for stage in cell.needed.values()]
    for job in jobs:
        run_stage(job, Worker())
    row = Results(grid, [cell], store, keys_of(tree, toy_tokens), jobs[0].measured).row(cell, FINISHED)
    curves = []
    for job in jobs:
        points = [p for p in store.curve(job.key, job.measured).to_pylist() if p["name"] == "loss/food"]
        grid_tokens = np.linspace(0, points[-1]["tokens"], 100_001)
        curves.append(
            (grid_tokens, np.interp(grid_tokens, [p["tokens"] for p in points], [p["value"] for p in points]))
        )
    (first, learned), (_, lost), (again, relearned) = curves
    level = learned[-1]
    assert lost[-1] > level + 0.3
    needed = again[np.argmax(relearned <= level)]
    assert relearned.min() <= level
    assert row["relearning_savings/food"] == pytest.approx(1 - needed / first[np.argmax(learned <= level)], abs=1e-3)
    assert row["relearning_savings/food"] > 0.5
    assert json.loads(json.dumps(row))["forgetting/food"] == pytest.approx(lost[-1] - level)


def test_the_curve_so_far_is_the_first_part_of_the_curve_and_grows_with_the_checkpoints(tmp_path, toy_tokens):
    grid = load(tmp_path, "baselines=[sequential_ab]", "interleaving_ratios=[0]")
    tree, store = Tree(grid), StageStore(tmp_path / "stages")
    (cell,) = tree.cells
    jobs = [Job(stage, toy_tokens, store, ("food", "automotive"), checkpoint_every=20) for stage in cell.stages]
    results = Results(grid, [cell], store, keys_of(tree, toy_tokens), jobs[0].measured)
    seen = [results.curve_so_far(cell).to_pylist()]
    for job in jobs:
        for step, _ in evaluations(job, Worker()):
            seen.append(results.curve_so_far(cell).to_pylist())
            assert all(point["step"] <= step - step % 20 for point in seen[-1] if point["stage"] == jobs.index(job))
    whole = results.curve(cell).to_pylist()
    assert seen[0] == []
    assert all(so_far == whole[: len(so_far)] for so_far in seen)
    assert len({len(so_far) for so_far in seen}) > 6
    assert results.curve_so_far(cell).to_pylist() == whole


def test_of_a_stage_that_may_begin_anew_nothing_is_shown_before_its_end(tmp_path, toy_tokens):
    drift = "interventions={cut: {kind: fracture, trigger: drift}}"
    grid = load(tmp_path, "baselines=[sequential_ab]", "interleaving_ratios=[0]", drift)
    tree, store = Tree(grid), StageStore(tmp_path / "stages")
    (cell,) = tree.cells
    *others, last = (
        Job(stage, toy_tokens, store, ("food", "automotive"), checkpoint_every=20) for stage in cell.needed.values()
    )
    for job in others:
        run_stage(job, Worker())
    results = Results(grid, [cell], store, keys_of(tree, toy_tokens), last.measured)
    known = results.curve_so_far(cell)
    for step, _ in evaluations(last, Worker()):
        if step > 20:
            break
    assert list(last.partial.iterdir())
    assert results.curve_so_far(cell) == known
