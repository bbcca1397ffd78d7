"""The checks on histories made by hand, each where it holds and where it fails; and what is trained for them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from grid.self_check import Same, check, check_same, checks, is_ok, result, table
from grid.self_check_assertions import ASSERTIONS, EXACT, Seed
from grid.self_check_measured import compared, same, seeds
from grid.self_check_stages import Arms, train, with_shuffled
from grid.spec import Grid, load_grid
from lethe.config import CONFIGS, UserError
from lethe.evaluation.history import History, StageCurve
from lethe.tokens.meta import read_meta
from lethe.tokens.shards import TokenData
from lethe.training.job import Job
from lethe.training.loop import run_stage
from lethe.training.store import StageStore
from lethe.worker import Worker

# The losses on a and b in the end, by arm; those after A are 4 and 6.5, after B 6.4 and 4.5, before both 8.
ENDS = {
    "sequential_ab": (6.0, 4.7),
    "sequential_ab 0.01": (5.2, 4.71),
    "sequential_ab 0.05": (4.8, 4.72),
    "sequential_ab 0.1": (4.6, 4.75),
    "sequential_ab lr_03": (5.2, 5.0),
    "sequential_ab lr_01": (4.7, 5.4),
    "sequential_ba": (4.3, 6.1),
    "combined": (4.2, 4.6),
    "more": (3.9, 6.5),
    "shuffled": (7.5, 6.8),
    "mixed": (4.22, 4.62),
}
# The loss on a after a tenth of B, and after each half of the branch that learns a again; the loss on b after A.
MARKS = {"tenth": 5.0, "half": 3.9, "full": 3.5, "b after a": 6.5}
NOISE = (-0.001, 0.0, 0.001)
BY_NAME = {assertion.name: assertion for assertion in ASSERTIONS}


def curve(mixture: dict[str, float], a: list[float], b: list[float]) -> StageCurve:
    tokens = np.linspace(0, 1000, len(a)) if len(a) < 4 else np.array([0, 100, 500, 1000])
    points = {f"loss/{x}": np.stack([tokens, values], axis=1) for x, values in (("a", a), ("b", b))}
    return StageCurve(mixture, 1000, 1.0, points)


def seed(noise: float, changes: dict) -> Seed:
    """A seed whose ends differ from those of others by `noise`, in each arm by another multiple of it."""
    marks = {name: changes.get(name, value) for name, value in MARKS.items()}
    ends = {arm: changes.get(arm, end) for arm, end in ENDS.items()}
    first = curve({"a": 1.0}, [8, 4.5, 4], [8, 7, marks["b after a"]])
    other = curve({"b": 1.0}, [8, 7, 6.4], [8, 5, 4.5])
    combined = curve({"a": 0.5, "b": 0.5}, [8, 5, ends["combined"][0] + noise], [8, 5, ends["combined"][1] + noise])
    again = curve({"a": 1.0}, [6, marks["half"], marks["full"]], [4.7, 5, 5])
    arms = {"combined": History([combined])}
    for i, (arm, (a, b)) in enumerate(ends.items()):
        a, b = a + i * noise, b + i * noise / 2
        if arm == "mixed":
            arms[arm] = History([curve({"a": 0.5, "b": 0.5}, [8, 5, a], [8, 5, b])])
        elif arm == "sequential_ba":
            arms[arm] = History([other, curve({"a": 1.0}, [6.4, 5, a], [4.5, 5, b])])
        elif arm.startswith("sequential") or arm in ("more", "shuffled"):
            mixture = {"a": 1.0} if arm == "more" else {"b": 1.0} if arm != "shuffled" else {"shuffled_b": 1.0}
            later = curve(mixture, [4, marks["tenth"], (marks["tenth"] + a) / 2, a], [marks["b after a"], 5, 5, b])
            arms[arm] = History([first, later], branches={"a": again})
    roots = [first, other, combined]
    return Seed("a", "b", {arm: replace(history, roots=roots) for arm, history in arms.items()})


def made(changes: dict | None = None) -> list[Seed]:
    return [seed(noise, changes or {}) for noise in NOISE]


@pytest.mark.parametrize("name", BY_NAME)
def test_holds_where_forgetting_is_as_it_should_be(name):
    found = check(BY_NAME[name], made())
    assert (found.verdict, found.why, found.n) == ("held", "", 3)
    assert found.interval[0] <= found.value <= found.interval[1]


FAILING = {
    "1a forgetting, A then B": {"sequential_ab": (3.5, 4.7)},
    "1b forgetting, B then A": {"sequential_ba": (4.3, 4.0)},
    "2a ratio 0 to .01": {"sequential_ab 0.01": (6.5, 4.71)},
    "2b ratio .01 to .05": {"sequential_ab 0.05": (5.9, 4.72)},
    "2c ratio .05 to .1": {"sequential_ab 0.1": (5.0, 4.75)},
    "2d first drop largest": {"sequential_ab 0.01": (5.8, 4.71)},
    "3a price of replay": {"sequential_ab 0.05": (4.8, 4.9)},
    "3b replay pays": {"sequential_ab 0.05": (4.8, 7)},
    "4a combined, A then B": {"combined": (7, 7)},
    "4b combined, B then A": {"combined": (7, 7)},
    "4c replay, from above": {"sequential_ab 0.05": (6.5, 5)},
    "4d replay, from below": {"sequential_ab 0.05": (4, 4)},
    "5a learning rate x1, x.3": {"sequential_ab lr_03": (6.5, 5)},
    "5b learning rate x.3, x.1": {"sequential_ab lr_01": (5.5, 5.4)},
    "6a tokens of B": {"tenth": 7},
    "6b concave": {"tenth": 4.1},
    "9 relearning savings": {"half": 5, "full": 4.1},
    "10a transfer": {"b after a": 7.8},
    "10b large from scratch": {"sequential_ab": (4.2, 4.7)},
    "10c most of the gain": {"sequential_ab": (4.5, 4.7)},
    "11a more of A": {"more": (4.5, 6.5)},
    "11b shuffled tokens": {"shuffled": (5, 6.8)},
    "13b r = share of A": {"mixed": (4.5, 4.9)},
}


@pytest.mark.parametrize("name", BY_NAME)
def test_fails_where_it_is_the_other_way_round(name):
    if name == "8 order":  # either sign is a finding
        return
    found = check(BY_NAME[name], made(FAILING[name]))
    assert found.verdict == "failed"
    assert "the whole interval is at or " in found.why


def test_values_are_those_worked_out_by_hand():
    found = {c.name: c for c in checks([seed(0, {}), seed(0, {})], {name: Same(1, True, 0.0) for name in EXACT})}
    values = {
        "1a forgetting, A then B": 2.0,
        "1b forgetting, B then A": 1.6,
        "2a ratio 0 to .01": 0.8,
        "2b ratio .01 to .05": 0.4,
        "2c ratio .05 to .1": 0.2,
        "2d first drop largest": 0.4,
        "3a price of replay": 0.02,
        "3b replay pays": 1.2 - 0.02,
        "4a combined, A then B": (6.0 + 4.7) / 2 - 4.4,
        "4b combined, B then A": (4.3 + 6.1) / 2 - 4.4,
        "4c replay, from above": (6.0 + 4.7) / 2 - (4.8 + 4.72) / 2,
        "4d replay, from below": (4.8 + 4.72) / 2 - 4.4,
        "5a learning rate x1, x.3": 0.8,
        "5b learning rate x.3, x.1": 0.5,
        "6a tokens of B": 1.0,
        "6b concave": 1.0 - 0.2,
        "8 order": 2.0 / (6.4 - 4) - 1.6 / (6.5 - 4.5),
        # The branch falls from 6 to 3.9 over 500 tokens, and passes 4 on the way.
        "9 relearning savings": 1 - 500 * (2 / 2.1) / 1000,
        "10a transfer": 1.5,
        "10b large from scratch": 2.0,
        "10c most of the gain": 2.0 / 2.4,
        "11a more of A": -0.1,
        "11b shuffled tokens": 1.5,
        "13b r = share of A": 0.02,
    }
    assert {name: found[name].value for name in values} == pytest.approx(values)


def test_order_is_a_finding_of_either_sign():
    other = check(BY_NAME["8 order"], made({"sequential_ab": (5.5, 4.7)}))
    assert other.verdict == "held"
    assert other.value < 0
    equal = check(BY_NAME["8 order"], made({"sequential_ab": (4 + 2.4 * 0.8, 4.7)}))
    assert (equal.verdict, equal.why.split(";")[0]) == ("undecided", "the interval holds the bound 0")


def test_an_interval_that_holds_the_bound_decides_nothing():
    seeds = [seed(0, {"sequential_ab": (a, 4.7)}) for a in (3.9, 4.0, 4.2)]
    found = check(BY_NAME["1a forgetting, A then B"], seeds)
    assert found.verdict == "undecided"
    assert found.interval[0] < 0 < found.interval[1]


def test_one_seed_decides_nothing():
    found = check(BY_NAME["1a forgetting, A then B"], made()[:1])
    assert (found.verdict, found.interval, found.value, found.n) == (
        "undecided",
        None,
        pytest.approx(1.99, abs=0.02),
        1,
    )


def test_what_is_undefined_at_a_seed_decides_nothing():
    """Where B alone is as good on A as A itself, there is no share to lose."""
    one, *others = made()
    roots = [curve({"b": 1.0}, [8, 5, 3.9], [8, 5, 4.5])]
    odd = Seed("a", "b", {arm: replace(history, roots=roots) for arm, history in one.arms.items()})
    found = check(BY_NAME["10c most of the gain"], [odd, *others])
    assert (found.verdict, found.n) == ("undecided", 2)
    assert found.why == "at 1 of 3 seeds B alone leaves the loss on A as low as A itself does"


def test_a_branch_that_does_not_come_back_counts_as_no_savings():
    never = seed(0, {"half": 5, "full": 4.1})
    assert never.savings() == 0
    mixed = check(BY_NAME["9 relearning savings"], [never, *made()])
    assert mixed.n == 4


def test_bits_that_differ_fail():
    a, b = {"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([-0.0, 1.0])}
    assert compared(a, a) == Same(1, True, 0.0)
    assert compared(a, b) == Same(1, False, 0.0)  # equal as numbers, not as bits
    assert compared(a, {"w": torch.tensor([0.0, 1.5])}) == Same(1, False, 0.5)
    assert check_same("n", "t", Same(3, True, 0.0)).verdict == "held"
    found = check_same("n", "t", Same(3, False, 0.5))
    assert (found.verdict, found.n, found.value, found.strength) == ("failed", 3, 0.5, "exact")


def test_the_result_keeps_its_form():
    found = checks(made(), {name: Same(8, True, 0.0) for name in EXACT})
    value = json.loads(json.dumps(result(found, "sample", {"model": "toy"})))
    assert set(value) == {"held", "failed", "undecided", "checks", "source", "settings"}
    assert (value["held"], value["failed"], value["undecided"]) == (len(found) - 1, 0, 1)
    assert {int("".join(filter(str.isdigit, c["name"].split()[0]))) for c in value["checks"]} == set(range(1, 15))
    keys = {"name", "assertion", "strength", "n", "value", "interval", "unit", "verdict", "why"}
    assert all(set(c) == keys for c in value["checks"])
    (size,) = (c for c in value["checks"] if c["verdict"] == "undecided")
    assert (size["name"], size["n"], size["value"], size["interval"]) == ("7 size", 0, None, None)
    assert "GPU" in size["why"]
    assert all((c["interval"] is None) == (c["strength"] == "exact" or c["n"] == 0) for c in value["checks"])
    assert all(c.name in table(found) for c in found)


def test_only_what_must_hold_decides_the_exit_code():
    equal = {name: Same(8, True, 0.0) for name in EXACT}
    assert is_ok(checks(made(FAILING["3a price of replay"]), equal))
    assert not is_ok(checks(made(FAILING["11a more of A"]), equal))
    assert not is_ok(checks(made(), equal | {"12a ewc off": Same(8, False, 1e-9)}))


def small(storage: Path, *overrides: str) -> Grid:
    few = ["stage.tokens=2560", "seeds=[0,1]", "stage.evaluation.sequences=16"]
    return load_grid(CONFIGS / "grids" / "self_check.yaml", [f"storage={storage}", *few, *overrides])


def test_one_model_at_a_time(tmp_path):
    with pytest.raises(UserError, match="models: found toy, tiny; allowed: one model"):
        Arms(small(tmp_path, "models=[toy, tiny]"))


def test_the_arms_are_what_their_names_say(tmp_path):
    arms = Arms(small(tmp_path))
    cells = arms.exact
    first, last = cells["sequential_ab"].stages
    assert cells["more"].stages == (first, last.altered(mixture={"food": 1}))
    assert cells["shuffled"].stages == (first, last.altered(mixture={"shuffled_automotive": 1}))
    assert cells["sequential_ab"].branches == (last.altered(mixture={"food": 1}, parent=last),)
    limit = cells["sequential_ab 1"].stages[-1]
    assert set(limit.mixture) == {"food", "automotive"}
    assert limit.drawn == {"food": limit.steps * 8, "automotive": 0}
    (mixed,), (combined,) = cells["mixed"].stages, cells["combined"].stages
    assert mixed.altered(seed=combined.seed) == combined
    assert mixed.seed != combined.seed
    assert "sequential_ab frozen" not in arms.at(1)


def test_other_seeds_leave_the_exact_one(tmp_path):
    arms = Arms(small(tmp_path, "seeds=[7,8]"))
    assert {"sequential_ab", "more", "sequential_ab 1", "sequential_ab frozen"} <= arms.exact.keys()
    assert {cell.seed for cell in arms.exact.values()} == {0}
    assert {"sequential_ab", "combined", "mixed"} <= arms.at(7).keys()


@pytest.fixture
def data(tmp_path, toy_tokens) -> TokenData:
    """A copy of the toy tokens, beside which other shards can lie."""
    shutil.copytree(toy_tokens.root.parents[1], tmp_path / "data")
    return TokenData(tmp_path / "data" / "tokens" / toy_tokens.root.name)


def test_shuffled_tokens_are_those_of_b_in_another_order(tmp_path, data):
    arms = Arms(small(tmp_path))
    wider = with_shuffled(data, arms)
    read_meta(wider.root / arms.shuffled)  # its counts agree with its files
    assert wider.corpora == ["automotive", "food", "shuffled_automotive"]
    for split, windows in (("train", 80), ("val", 16)):
        n = windows * 32 + 1  # what stages read of it, and no more
        ids, before = (
            x.split(corpus, split).read(np.array([0]), n - 1)[0]
            for x, corpus in ((wider, arms.shuffled), (data, "automotive"))
        )
        assert wider.split(arms.shuffled, split).tokens == n
        assert (np.sort(ids) == np.sort(before)).all()
        assert (ids == before).mean() < 0.2
    again = with_shuffled(data, arms)
    assert again.split(arms.shuffled, "train").fingerprint == wider.split(arms.shuffled, "train").fingerprint


def test_what_was_trained_is_measured(tmp_path, data):
    """Every stage of two seeds, of ten steps each, in this process; then `train` finds all but the repetition."""
    grid = small(tmp_path)
    arms = Arms(grid)
    wider, store = with_shuffled(data, arms), StageStore(tmp_path / "runs" / "stages")
    for stage in arms.stages.values():
        run_stage(Job(stage, wider, store, ("food", "automotive"), grid.stage.evaluation), Worker())
    trained = train(grid, data)
    weights = same(trained)
    assert weights.keys() == EXACT.keys()
    assert all(found.equal and found.n >= 8 for found in weights.values())
    one, other = seeds(trained)
    assert one.a == "food"
    assert one.arms.keys() == other.arms.keys() | set(arms.exact)
    ab = one.arms["sequential_ab"]
    assert ab.losses("food")[1] == one.arms["more"].losses("food")[1]
    assert one.arms["sequential_ab frozen"].losses("food")[2] == ab.losses("food")[1]
    assert ab.branches["food"].start("loss/food") == one.loss("food")
    assert one.loss("food") != other.loss("food")
    found = checks([one, other], weights)
    assert len(found) == len(ASSERTIONS) + len(EXACT) + 1
    assert all(c.n == 2 for c in found if c.strength != "exact" and c.name != "7 size")


def test_data_that_is_too_small_is_refused(tmp_path, data):
    with pytest.raises(UserError, match=r"stage\.max_epochs: found 1; corpus food has"):
        train(small(tmp_path, "stage.tokens=1000000"), data)
