"""The arms of a finished grid as a Markdown table: forgetting, and its price on the later corpus, against two arms.

python -m benchmarks.arms RUN_FOLDER [--baseline NAME]. Means over seeds; ± is half a 95 % interval (Student);
differences are paired by seed, from plain training, from interleaving at the highest ratio, and in forgetting from
interleaving at the arm's own loss on the later corpus (`grid.matched`: ≤ and ≥ where that lies beyond interleaving's).
"""

import argparse
from pathlib import Path

import pandas as pd

from grid.matched import matched
from grid.summary import paired_differences, summary
from lethe.config import UserError
from lethe.program import run_program

HEADER = [
    "arm",
    "forgetting",
    "lost",
    "later loss",
    "later loss - plain",
    "forgetting - ratio {}",
    "later loss - ratio {}",
]
MATCHED = "forgetting - interleaving at its loss"


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="runs/NAME of a finished grid")
    parser.add_argument("--baseline", default="sequential_ab", metavar="NAME", help="default: %(default)s")
    given = parser.parse_args(argv)
    path = given.run / "results.parquet"
    if not path.is_file():
        raise UserError(
            f"RUN_FOLDER: found {given.run}, where there is no results.parquet; allowed: a grid's runs/NAME"
        )
    results = pd.read_parquet(path)
    cells = results[results["baseline"] == given.baseline]
    if cells.empty:
        raise UserError(f"--baseline: found {given.baseline!r}; allowed: {', '.join(results['baseline'].unique())}")
    print(table(cells))
    return 0


def table(cells: pd.DataFrame) -> str:
    """The arms of one baseline with one model; the corpus that is forgotten is the one with values of forgetting."""
    earlier = next(name for name in cells if name.startswith("forgetting/") and cells[name].notna().any())
    earlier = earlier.removeprefix("forgetting/")
    later = next(name for name in cells if name.startswith("final_loss/") and name != f"final_loss/{earlier}")
    forgotten, lost = f"forgetting/{earlier}", f"fraction_lost/{earlier}"
    top = cells["interleaving_ratio"].max()
    means = _by_arm(summary(cells, [forgotten, lost, later]))
    plain = _by_arm(paired_differences(cells, [later]))
    interleaved = _by_arm(
        paired_differences(cells, [forgotten, later], {"interleaving_ratio": top, "intervention_kind": "none"})
    )
    at_its_loss = _matched(cells, earlier)
    header = [name.format(f"{top:g}") for name in HEADER] + [MATCHED] * bool(at_its_loss)
    rows = [header, ["---"] * len(header)]
    for arm, values in means.items():
        name = arm[1] if arm[0] == 0 else f"{arm[1]}, ratio {arm[0]:g}"
        rows.append(
            [name, _shown(values[forgotten]), f"{values[lost][0]:.0%}" if lost in values else "", _shown(values[later])]
            + [_shown(plain.get(arm, {}).get(later))]
            + [_shown(interleaved.get(arm, {}).get(metric)) for metric in (forgotten, later)]
            + [at_its_loss.get(arm, "")] * bool(at_its_loss)
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _matched(cells: pd.DataFrame, earlier: str) -> dict[tuple[float, str], str]:
    """Of each ratio and intervention the difference at matched loss; empty without two ratios of interleaving."""
    found = {}
    for row in matched(cells).to_dict("records"):
        bound = "" if not (row["below"] or row["above"]) else "≤ " if not row["above"] else "≥ " * (not row["below"])
        if row["earlier"] == earlier:
            found[row["interleaving_ratio"], row["intervention"]] = bound + _shown((row["mean"], row["half"]))
    return found


def _by_arm(rows: pd.DataFrame) -> dict[tuple[float, str], dict[str, tuple[float, float]]]:
    """Of each ratio and intervention the (mean, half) of each metric."""
    result: dict[tuple[float, str], dict[str, tuple[float, float]]] = {}
    for row in rows.to_dict("records"):
        arm = result.setdefault((row["interleaving_ratio"], row["intervention"]), {})
        arm[row["metric"]] = row["mean"], row["half"]
    return result


def _shown(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{value[0]:+.3f} ±{value[1]:.3f}"


if __name__ == "__main__":
    run_program(main)
