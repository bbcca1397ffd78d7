"""Results over seeds: the mean of every arm, and its paired difference from a reference, each with its interval.

    results = pandas.read_parquet("runs/NAME/results.parquet")
    summary(results, ["forgetting/food", "fraction_lost/food"])
    paired_differences(results, ["forgetting/food"])

An arm is all cells that differ only in their seed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from lethe.config import UserError
from lethe.evaluation.intervals import Interval, mean_interval, paired_difference

ARM = ["baseline", "model", "interleaving_ratio", "intervention"]
COLUMNS = [*ARM, "metric", "mean", "half", "n"]
PLAIN = {"interleaving_ratio": 0.0, "intervention_kind": "none"}


def summary(results: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Each metric's mean over the finished seeds of each arm, a row a metric: COLUMNS, in the order of the results.

    `half` is half the width of the 95 % interval, nan with one seed; `n` counts the seeds at which the metric is
    defined. A metric defined at none of an arm's seeds has no row there. Raises UserError for one that the results
    do not have.
    """
    return _table(metrics, [(cells, mean_interval) for cells in arms(results)])


def paired_differences(
    results: pd.DataFrame, metrics: Sequence[str], reference: Mapping[str, Any] = PLAIN
) -> pd.DataFrame:
    """As `summary`, of each arm's metric minus its reference's at the same seed.

    The reference of an arm is the arm that has the values of `reference` in these columns of the results, and the
    arm's own model and (unless that is in `reference`) baseline; of several, the one at the arm's own ratio. The
    default is plain sequential training; `{"intervention": "none"}` is interleaving alone at the same ratio,
    `{"baseline": "combined"}` training on everything at once. An arm without one has no row, nor has the reference
    itself. Raises UserError where several arms fit, or the results have no such metric.
    """
    every, compared = arms(results), []
    for cells in every:
        wanted = {name: cells[name].iloc[0] for name in ("baseline", "model")} | dict(reference)
        fit = [other for other in every if all(other[name].iloc[0] == value for name, value in wanted.items())]
        if len(fit) > 1:
            fit = [o for o in fit if o["interleaving_ratio"].iloc[0] == cells["interleaving_ratio"].iloc[0]]
        if len(fit) > 1:
            raise UserError(f"reference: found {dict(reference)}, which {len(fit)} arms have; allowed: what one has")
        if fit and fit[0] is not cells:
            compared.append((cells, _minus(fit[0])))
    return _table(metrics, compared)


Aggregate = Callable[[pd.Series], Interval | None]


def arms(results: pd.DataFrame) -> list[pd.DataFrame]:
    """The finished cells of each arm, by seed."""
    finished = results[results["status"] == "finished"].set_index("seed", drop=False)
    return [cells for _, cells in finished.groupby(ARM, dropna=False, sort=False)]


def _minus(reference: pd.DataFrame) -> Aggregate:
    def difference(values: pd.Series) -> Interval | None:
        return paired_difference(values.to_dict(), _numbers(reference[str(values.name)]).to_dict())

    return difference


def _numbers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column).astype(float)


def _table(metrics: Sequence[str], every: list[tuple[pd.DataFrame, Aggregate]]) -> pd.DataFrame:
    rows = []
    for cells, aggregate in every:
        if unknown := [metric for metric in metrics if metric not in cells]:
            raise UserError(f"metrics: found {', '.join(unknown)}; allowed: columns of the results")
        arm = [cells[name].iloc[0] for name in ARM]
        for metric in metrics:
            if found := aggregate(_numbers(cells[metric])):
                rows.append((*arm, metric, found.mean, found.half, found.n))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"mean": float, "half": float, "n": int})
