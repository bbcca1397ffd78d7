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
    with pytest.raises(UserError, match="allowed: sequential_ab"):
        main([str(tmp_path), "--baseline", "combined"])


def test_an_arm_is_held_against_interleaving_at_its_own_loss() -> None:
    rows = family = results().assign(**{"learned_loss/cars": 2.0})
    for loss, forgotten in ((2.25, 1.0), (9.0, 2.0)):
        arm = family[family["interleaving_ratio"] == 0].assign(intervention=f"at {loss}", intervention_kind="l2_sp")
        rows = pd.concat([rows, arm.assign(**{"final_loss/cars": loss, "forgetting/food": forgotten})])
    lines = table(rows).splitlines()
    assert lines[0].endswith("| forgetting - interleaving at its loss |")
    # Interleaving forgets 2 and 3.2 - 2.2 / .3 x .25 nats at a loss of 2.25, and 1 nat at 2.5 and at 2.3.
    assert lines[4].endswith(f"| {(1 - 2 + 1 - (3.2 - 2.2 * 0.25 / 0.3)) / 2:+.3f} ±{12.706 * 0.3167:.3f} |")
    assert lines[5].endswith("| ≥ +1.000 ±0.000 |")
    assert lines[2].endswith("|  |") and lines[3].endswith("|  |")
