"""The arms of a finished grid as a Markdown table: forgetting, and its price on the later corpus, against two arms.

python -m benchmarks.arms RUN_FOLDER [--baseline NAME] [--model NAME] [--against ARM]. Means over seeds; ± is half a
95 % interval (Student); differences are paired by seed, from plain training, from interleaving at the highest ratio or
the intervention ARM in its place, and in forgetting from interleaving at the arm's own loss on the later corpus
(`grid.matched`: ≤ and ≥ where that lies beyond interleaving's). Where an arm's model grows, or costs other FLOPs than a
plain one to train or to run, columns say by what share.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import pandas as pd

from grid.matched import corpora_in, corpus_pairs, matched
from grid.summary import paired_differences, summary
from lethe.config import UserError
from lethe.program import run_program

MATCHED = "forgetting - interleaving at its loss"
SHARES = {"growth": "growth", "extra_flops": "training FLOPs - plain", "run_flops": "run FLOPs - plain"}

Arm = tuple[float, str]  # ratio and intervention
Values = dict[Arm, dict[str, tuple[float, float]]]  # of each metric mean and half
Column = tuple[str, dict[Arm, str]]  # its head, and what it shows


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="runs/NAME of a finished grid")
    parser.add_argument("--baseline", default="sequential_ab", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--model", metavar="NAME", help="default: a table for each")
    parser.add_argument("--against", metavar="ARM", help="an intervention; default: interleaving at the highest ratio")
    given = parser.parse_args(argv)
    path = given.run / "results.parquet"
    if not path.is_file():
        raise UserError(
            f"RUN_FOLDER: found {given.run}, where there is no results.parquet; allowed: a grid's runs/NAME"
        )
    results = pd.read_parquet(path)
    cells = results[results["baseline"] == given.baseline]
    baselines = [str(name) for name, rows in results.groupby("baseline", sort=False) if corpora_in(rows, "forgetting")]
    if given.baseline not in baselines:
        raise UserError(f"--baseline: found {given.baseline!r}; allowed: {', '.join(baselines)}")
    models = list(cells["model"].unique())
    if given.model not in (None, *models):
        raise UserError(f"--model: found {given.model!r}; allowed: {', '.join(models)}")
    arms = cells[cells["interleaving_ratio"] == 0]["intervention"].unique()
    if given.against is not None and given.against not in arms:
        raise UserError(f"--against: found {given.against!r}; allowed: {', '.join(arms)}")
    models = [given.model] if given.model else models
    for model in models:
        if len(models) > 1:
            print(f"\n{model}\n")
        print(table(cells[cells["model"] == model], given.against))
    return 0


def table(cells: pd.DataFrame, against: str | None = None) -> str:
    """The arms of one baseline with one model, against interleaving's highest ratio or an intervention at ratio 0.

    Each corpus that was learned before the last stage's has columns of its own.
    """
    earlier, later = corpora_in(cells, "forgetting"), list(dict.fromkeys(y for _, y in corpus_pairs(cells)))
    lost, learned = [f"forgetting/{x}" for x in earlier], [f"final_loss/{y}" for y in later]
    name, reference = _other(cells, against)
    wanted = [*lost, *(f"fraction_lost/{x}" for x in earlier), *learned, *SHARES]
    means = _by_arm(summary(cells, [metric for metric in wanted if metric in cells]))
    plain = _by_arm(paired_differences(cells, learned))
    other = _by_arm(paired_differences(cells, [*lost, *learned], reference))
    columns = [
        *_each("forgetting", means, lost),
        *_each("lost", means, [f"fraction_lost/{x}" for x in earlier], "{:.0%}"),
        *_each("later loss", means, learned),
        *_each("later loss - plain", plain, learned),
        *_each(f"forgetting - {name}", other, lost),
        *_each(f"later loss - {name}", other, learned),
        *_matched(cells),
        *(_column(SHARES[share], means, share, "{:+.0%}") for share in SHARES if _any(means, share)),
    ]
    columns = [(head, shown) for head, shown in columns if shown]
    rows = [["arm", *(head for head, _ in columns)], ["---"] * (1 + len(columns))]
    for arm in means:
        label = arm[1] if arm[0] == 0 else f"{arm[1]}, ratio {arm[0]:g}"
        rows.append([label, *(shown.get(arm, "") for _, shown in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _other(cells: pd.DataFrame, against: str | None) -> tuple[str, dict[str, Any]]:
    """The arm that all are held against: its name, and the values that it has in the results."""
    if against is not None:
        return against, {"interleaving_ratio": 0.0, "intervention": against}
    top = cells["interleaving_ratio"].max()
    return f"ratio {top:g}", {"interleaving_ratio": top, "intervention_kind": "none"}


def _each(head: str, values: Values, metrics: list[str], mean: str = "") -> list[Column]:
    """A column for each metric; of several the head names the corpus."""
    several = len(metrics) > 1
    return [_column(f"{head}, {m.split('/', 1)[1]}" if several else head, values, m, mean) for m in metrics]


def _column(head: str, values: Values, metric: str, mean: str = "") -> Column:
    """Means with their intervals, or in the format `mean` alone."""
    known = {arm: each[metric] for arm, each in values.items() if metric in each}
    return head, {arm: mean.format(value[0]) if mean else _shown(value) for arm, value in known.items()}


def _any(values: Values, metric: str) -> bool:
    """Whether an arm has another mean than 0."""
    return any(each[metric][0] for each in values.values() if metric in each)


def _matched(cells: pd.DataFrame) -> list[Column]:
    """The differences at matched loss, by pair of corpora; none without two ratios of interleaving."""
    found = matched(cells)
    several = [name for name in ("earlier", "later") if found[name].nunique() > 1]
    columns = []
    for _, rows in found.groupby(["earlier", "later"], sort=False):
        records = rows.to_dict("records")
        head = ", ".join([MATCHED, *(records[0][name] for name in several)])
        columns.append((head, {(r["interleaving_ratio"], r["intervention"]): _bounded(r) for r in records}))
    return columns


def _bounded(row: dict[str, Any]) -> str:
    bound = "" if not (row["below"] or row["above"]) else "≤ " if not row["above"] else "≥ " * (not row["below"])
    return bound + _shown((row["mean"], row["half"]))


def _by_arm(rows: pd.DataFrame) -> Values:
    result: Values = {}
    for row in rows.to_dict("records"):
        arm = result.setdefault((row["interleaving_ratio"], row["intervention"]), {})
        arm[row["metric"]] = row["mean"], row["half"]
    return result


def _shown(value: tuple[float, float]) -> str:
    """With one seed there is no interval."""
    return f"{value[0]:+.3f}" + ("" if math.isnan(value[1]) else f" ±{value[1]:.3f}")


if __name__ == "__main__":
    run_program(main)
