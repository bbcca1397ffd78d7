"""Texts that change their subject, read by the arms of a small grid that was trained; against sums of one's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks.half import main
from grid.driver import keys_of
from grid.spec import load_grid
from grid.tree import Tree
from lethe.config import UserError
from lethe.files import write_json
from lethe.tokens.shards import TokenData
from lethe.training.job import Job
from lethe.training.load import load_model
from lethe.training.loop import run_stage
from lethe.training.store import StageStore
from lethe.worker import Worker

GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "tokenizer": {"vocab_size": 320},
    "baselines": ["sequential_ab", "sequential_ba", "combined"],
    "interventions": {"plain": {"kind": "none"}, "route": {"kind": "route"}},
    "interleaving_ratios": [0, 0.25],
    "seeds": [0, 1],
    "stage": {"tokens": 10_240, "batch": 8, "learning_rate": 6e-3},
}
UNTRAINED = "automotive 75% + food 25% with route after food"
SEQUENCES, CONTEXT = 12, 32
Losses = dict[str, np.ndarray]  # of each kind of row [n, context]: what each token after the first costs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_tokens: TokenData) -> Path:
    """The folder of a grid of which one baseline is trained, but for an arm at one seed."""
    storage = tmp_path_factory.mktemp("half")
    (storage / "data").symlink_to(toy_tokens.root.parent.parent)
    (storage / "g.yaml").write_text(yaml.safe_dump(GRID | {"storage": str(storage)}))
    grid = load_grid(storage / "g.yaml")
    tree, store = Tree(grid), StageStore(storage / "runs" / "stages")
    plan = tree.plan(keys_of(tree, toy_tokens))
    for described in plan["stage_list"]:
        stage = tree.stages[described["id"]]
        if stage.sequence[0].mixture == {"food": 1} and (described["name"], stage.seed) != (UNTRAINED, 1):
            run_stage(Job(stage, toy_tokens, store, tuple(grid.corpora), grid.stage.evaluation), Worker())
    write_json(grid.folder / "plan.json", plan)
    return grid.folder


def shown(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, list[str]]]:
    """The line above the table, and the table's rows by what stands first in them."""
    assert main([str(run), "--sequences", str(SEQUENCES)]) == 0
    above, *lines = [line for line in capsys.readouterr().out.splitlines() if line]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return above, {name: cells for name, *cells in rows}


def losses(run: Path, data: TokenData, key: str) -> Losses:
    """The losses of a stage's model token by token, by log-sums in float64, a row at a time."""
    model = load_model(StageStore(run.parent / "stages"), key)
    windows, found = {}, {}
    for corpus in ("food", "automotive"):
        split = data.split(corpus, "val")
        there = split.windows(CONTEXT)
        windows[corpus] = split.read(np.array([i * there // SEQUENCES for i in range(SEQUENCES)]), CONTEXT)
    for before in windows:
        for after in windows:
            rows = windows[after].copy()
            rows[:, : CONTEXT // 2] = windows[before][:, : CONTEXT // 2]
            found[f"{before} {after}"] = np.array([_row(model, row) for row in rows])
    return found


@torch.no_grad()
def _row(model: torch.nn.Module, row: np.ndarray) -> np.ndarray:
    logits = model(torch.from_numpy(row[None, :-1]))[0].double().numpy()
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), row[1:]]


def cell(run: Path, arm: str, seed: int) -> list[str]:
    """The keys of the stages of a cell of `sequential_ab`."""
    plan = json.loads((run / "plan.json").read_text())
    keys = {stage["id"]: stage["key"] for stage in plan["stage_list"]}
    (found,) = [c for c in plan["cell_list"] if c["cell"] == f"sequential_ab-toy-{arm}-s{seed}"]
    return [keys[stage] for stage in found["stages"]]


def columns(found: Losses) -> np.ndarray:
    """The first six: tokens 1 to 15 of a row stand before the change, 17 to 32 after the one that it brings."""
    values = []
    for before, after in (("food", "automotive"), ("automotive", "food")):
        changed, whole = found[f"{before} {after}"], found[f"{after} {after}"]
        values += [changed[:, 0:15].mean(), changed[:, 16:32].mean(), whole[:, 16:32].mean()]
    return np.array(values)


def number(text: str) -> float:
    return float(text.split(" ±")[0])


@pytest.mark.parametrize("arm", ["plain", "route"])
def test_the_numbers_of_an_arm_are_those_of_its_models(run, toy_tokens, capsys, arm):
    _, rows = shown(run, capsys)
    assert rows["arm"][1:4] == ["food, then automotive: first half", "second half", "second half, all automotive"]
    assert rows["arm"][4:7] == ["automotive, then food: first half", "second half", "second half, all food"]
    by_seed = np.array([columns(losses(run, toy_tokens, cell(run, f"r0-{arm}", seed)[1])) for seed in (0, 1)])
    for text, values in zip(rows[arm][1:], by_seed.T, strict=False):
        assert number(text) == pytest.approx(values.mean(), abs=6e-4)
        # Of two seeds d apart, half the interval is t(.975, 1) d / 2 = 12.706 d / 2 (Student).
        assert float(text.split(" ±")[1]) == pytest.approx(12.706 * abs(values[0] - values[1]) / 2, abs=6e-4)
    mean = by_seed[:, [0, 1, 3, 4]].mean()
    assert number(rows[arm][7]) == pytest.approx(mean, abs=6e-4)
    assert number(rows[arm][9]) == pytest.approx((by_seed[:, [1, 4]] - by_seed[:, [2, 5]]).mean(), abs=6e-4)


def test_what_comes_before_the_change_is_read_as_if_none_came(run, toy_tokens):
    found = losses(run, toy_tokens, cell(run, "r0-plain", 0)[1])
    assert found["food automotive"][:, :15] == pytest.approx(found["food food"][:, :15], abs=1e-5)


def test_the_oracle_has_in_each_half_the_better_of_two_models(run, toy_tokens, capsys):
    _, rows = shown(run, capsys)
    first, plain = (
        np.array([columns(losses(run, toy_tokens, cell(run, "r0-plain", seed)[stage])) for seed in (0, 1)])
        for stage in (0, 1)
    )
    better = np.minimum(first, plain)
    assert (better < plain).any() and (better < first).any()
    for text, expected in zip(rows["oracle"][1:], better.mean(axis=0), strict=False):
        assert number(text) == pytest.approx(expected, abs=6e-4)
    assert number(rows["the model of food"][1]) == pytest.approx(first[:, 0].mean(), abs=6e-4)
    behind = (plain - better)[:, [0, 1, 3, 4]].mean(axis=1)
    assert number(rows["plain"][8]) == pytest.approx(behind.mean(), abs=6e-4)
    assert float(rows["plain"][8].split(" ±")[1]) == pytest.approx(12.706 * abs(behind[0] - behind[1]) / 2, abs=6e-4)
    assert rows["oracle"][8] == ""


def test_of_a_grid_that_is_not_finished_it_shows_what_there_is(run, capsys):
    above, rows = shown(run, capsys)
    assert above == "toy: 7 of 8 cells are finished"
    seeds = [(name, cells[0]) for name, cells in rows.items() if name not in ("arm", "---")]
    assert seeds[:3] == [("plain", "2"), ("route", "2"), ("plain, ratio 0.25", "2")]
    assert seeds[3:] == [("route, ratio 0.25", "1"), ("the model of food", "2"), ("oracle", "2")]
    assert "±" not in "".join(rows["route, ratio 0.25"])
    assert main([str(run), "--baseline", "sequential_ba"]) == 0
    assert capsys.readouterr().out.split("\n\n")[:-1] == ["toy: 0 of 8 cells are finished"]


def test_what_cannot_be_read_is_told(run, tmp_path):
    with pytest.raises(UserError, match=r"RUN_FOLDER: found .*, where there is no plan\.json; allowed: a grid's runs/"):
        main([str(tmp_path)])
    with pytest.raises(UserError, match=r"--baseline: found 'combined'; allowed.*: sequential_ab, sequential_ba$"):
        main([str(run), "--baseline", "combined"])
    with pytest.raises(UserError, match="--sequences: found 0; allowed: 1 or more"):
        main([str(run), "--sequences", "0"])
