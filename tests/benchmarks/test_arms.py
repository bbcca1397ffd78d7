"""The table of arms, on made-up results whose means and intervals are worked out by hand."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.arms import main, table
from lethe.config import UserError


def results() -> pd.DataFrame:
    rows = []
    for arm, ratio, forgotten, loss in (("none", 0, (3, 3.2), (2, 2)), ("none", 0.25, (1, 1), (2.5, 2.3))):
        for seed in (0, 1):
            rows.append(
                {"baseline": "sequential_ab", "model": "tiny", "interleaving_ratio": float(ratio), "seed": seed}
                | {"intervention": arm, "intervention_kind": "none", "status": "finished"}
                | {"forgetting/food": forgotten[seed], "fraction_lost/food": forgotten[seed] / 4}
                | {"learned_loss/food": 4.0, "learned_loss/cars": loss[seed]}
                | {"final_loss/food": 5.0, "final_loss/cars": loss[seed]}
            )
    return pd.DataFrame(rows)


def test_means_and_paired_differences_have_intervals() -> None:
    # Of two seeds d apart, half the interval is t(.975, 1) d / 2 = 12.706 d / 2 (Student).
    lines = table(results()).splitlines()
    assert lines[2] == "| none | +3.100 ±1.271 | 78% | +2.000 ±0.000 |  | +2.100 ±1.271 | -0.400 ±1.271 |"
    assert lines[3] == "| none, ratio 0.25 | +1.000 ±0.000 | 25% | +2.400 ±1.271 | +0.400 ±1.271 |  |  |"


def test_the_program_prints_it_and_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no results\.parquet"):
        main([str(tmp_path)])
    results().to_parquet(tmp_path / "results.parquet")
    assert main([str(tmp_path)]) == 0
    assert "none, ratio 0.25" in capsys.readouterr().out
    assert main([str(tmp_path), "--against", "none"]) == 0
    assert "forgetting - none" in capsys.readouterr().out
    with pytest.raises(UserError, match="allowed: sequential_ab"):
        main([str(tmp_path), "--baseline", "combined"])
    with pytest.raises(UserError, match="--against: found 'pull'; allowed: none"):
        main([str(tmp_path), "--against", "pull"])


def test_of_several_models_each_has_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = results()
    wide = tiny.assign(model="wide", **{"forgetting/food": 7.0})
    pd.concat([tiny, wide]).to_parquet(tmp_path / "results.parquet")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"\ntiny\n\n{table(tiny)}\n\nwide\n\n{table(wide)}\n"
    with pytest.raises(UserError, match="--model: found 'narrow'; allowed: tiny, wide"):
        main([str(tmp_path), "--model", "narrow"])
    assert main([str(tmp_path), "--model", "tiny"]) == 0
    assert capsys.readouterr().out.strip() == table(tiny)


def test_an_arm_is_held_against_interleaving_at_its_own_loss() -> None:
    rows = family = results()
    for loss, forgotten in ((2.25, 1.0), (9.0, 2.0)):
        arm = family[family["interleaving_ratio"] == 0].assign(intervention=f"at {loss}", intervention_kind="l2_sp")
        rows = pd.concat([rows, arm.assign(**{"final_loss/cars": loss, "forgetting/food": forgotten})])
    lines = table(rows).splitlines()
    assert lines[0].endswith("| forgetting - interleaving at its loss |")
    # Interleaving forgets 2 and 3.2 - 2.2 / .3 x .25 nats at a loss of 2.25, and 1 nat at 2.5 and at 2.3.
    assert lines[4].endswith(f"| {(1 - 2 + 1 - (3.2 - 2.2 * 0.25 / 0.3)) / 2:+.3f} ±{12.706 * 0.3167:.3f} |")
    assert lines[5].endswith("| ≥ +1.000 ±0.000 |")
    assert lines[2].endswith("|  |") and lines[3].endswith("|  |")


def test_arms_are_held_against_any_arm_by_seed() -> None:
    plain = results()[lambda rows: rows["interleaving_ratio"] == 0]
    pull = plain.assign(intervention="pull", intervention_kind="l2_sp")
    pull = pull.assign(**{"forgetting/food": [1.0, 1.0], "final_loss/cars": [2.5, 2.5]})
    lines = table(pd.concat([results(), pull]), against="pull").splitlines()
    assert "| forgetting - pull | later loss - pull |" in lines[0]
    assert "| +2.100 ±1.271 | -0.500 ±0.000 |" in lines[2]
    assert "| +0.000 ±0.000 | -0.100 ±1.271 |" in lines[3]
    assert "| +0.500 ±0.000 |  |  |" in lines[4]


def test_what_grows_and_costs_more_has_columns_of_its_own() -> None:
    rows = results().assign(growth=[0.0, 0.0, 0.58, 0.58], extra_flops=[0.0, 0.0, -1.0, -1.0], run_flops=0.0)
    lines = table(rows).splitlines()
    assert lines[0].endswith("| growth | training FLOPs - plain |")
    assert lines[2].endswith("| +0% | +0% |") and lines[3].endswith("| +58% | -100% |")


def test_of_three_stages_both_earlier_corpora_are_forgotten_and_the_last_is_learned() -> None:
    # The columns stand in the order of the grid's corpora, the last one learned first of all.
    third = {"final_loss/air": 1.5, "learned_loss/air": 1.5}
    rows = pd.DataFrame([third] * 4).join(results().assign(**{"forgetting/cars": 0.5, "fraction_lost/cars": 0.25}))
    lines = table(rows).splitlines()
    heads = [head.strip() for head in lines[0].strip("|").split("|")]
    assert heads[:6] == ["arm", "forgetting, food", "forgetting, cars", "lost, food", "lost, cars", "later loss"]
    assert heads[7:10] == ["forgetting - ratio 0.25, food", "forgetting - ratio 0.25, cars", "later loss - ratio 0.25"]
    assert lines[2].startswith("| none | +3.100 ±1.271 | +0.500 ±0.000 | 78% | 25% | +1.500 ±0.000 |")


def test_a_corpus_that_comes_back_leaves_none_learned_last() -> None:
    rows = results().assign(**{"forgetting/cars": 0.5})
    assert "later loss" not in table(rows) and "forgetting, cars" in table(rows)


def test_one_seed_has_no_interval_and_what_is_not_known_no_column() -> None:
    rows = results()[lambda rows: rows["seed"] == 0].drop(columns="fraction_lost/food")
    assert table(rows).splitlines()[2:] == [
        "| none | +3.000 | +2.000 |  | +2.000 | -0.500 |",
        "| none, ratio 0.25 | +1.000 | +2.500 | +0.500 |  |  |",
    ]
