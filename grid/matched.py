"""Arms compared with interleaving at equal loss on the later corpus: who forgets less, when both learned as much?

    results = pandas.read_parquet("runs/NAME/results.parquet")
    matched(results)

An arm that forgets less because it learns less has won nothing. Interleaving at several ratios gives, at each seed, a
curve of forgetting against loss on the later corpus; an arm is held against that curve at its own loss.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from grid.summary import ARM, arms
from lethe.evaluation.intervals import mean_interval

MATCHED = [*ARM, "earlier", "later", "mean", "half", "n", "below", "above"]
FEWEST_RATIOS = 2


def matched(results: pd.DataFrame) -> pd.DataFrame:
    """Forgetting of each arm minus that of interleaving at the arm's own loss on the later corpus: columns MATCHED.

    A row for each arm of a baseline and model and each pair of an earlier and a later corpus, but for the arms of the
    interleaving family itself, which is plain training at two ratios or more. `mean`, with half the width of its 95 %
    interval, is of the differences at each seed, against the family's `front` at that seed; seeds at which a ratio of
    the family is missing do not count. `half` is nan with one seed.

    Where the arm's loss is beyond the front's, its nearest end is taken, and the difference is only a bound: at `below`
    of the `n` seeds the arm's loss is lower than the front's lowest, so that the true difference is at most this;
    at `above` of them it is higher than the front's highest, and the true difference is at least this.
    """
    rows = []
    for _, cells in results.groupby(["baseline", "model"], sort=False):
        for earlier, later in corpus_pairs(cells):
            metrics = [f"final_loss/{later}", f"forgetting/{earlier}"]
            every = [(arm, arm[metrics].astype(float).dropna()) for arm in arms(cells)]
            family = [points for arm, points in every if _is_plain(arm)]
            if len(family) >= FEWEST_RATIOS:
                fronts = dict(_fronts(family))
                for arm, points in every:
                    compared = None if _is_plain(arm) else _compare(points, fronts)
                    if compared:
                        rows.append([*(arm[name].iloc[0] for name in ARM), earlier, later, *compared])
    kinds = {"mean": float, "half": float, "n": int, "below": int, "above": int}
    return pd.DataFrame(rows, columns=MATCHED).astype(kinds)


def corpus_pairs(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """The corpora that these cells can forget, each with those that they learned last."""
    earlier = corpora_in(cells, "forgetting")
    return [(x, y) for x in earlier for y in corpora_in(cells, "learned_loss") if y not in earlier]


def corpora_in(cells: pd.DataFrame, metric: str) -> list[str]:
    """The corpora of which these cells have values of a metric."""
    named = [str(column).split("/", 1) for column in cells if cells[column].notna().any()]
    return [name[1] for name in named if name[0] == metric]


def front(points: np.ndarray) -> np.ndarray:
    """The points (loss, forgetting), float64 [n, 2], that no other is below in one and not above in the other.

    By loss rising, and so by forgetting falling. Interleaving is worth what its best ratios give: a ratio that is
    worse in both by the noise of a seed would bend the curve back.
    """
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
    lowest = np.minimum.accumulate(ordered[:, 1])
    best = np.append(True, ordered[1:, 1] < lowest[:-1])
    return ordered[best]


def _is_plain(arm: pd.DataFrame) -> bool:
    return bool(arm["intervention_kind"].iloc[0] == "none" and pd.notna(arm["interleaving_ratio"].iloc[0]))


def _fronts(family: list[pd.DataFrame]) -> Iterator[tuple[int, np.ndarray]]:
    """The family's front at each seed at which all of its ratios are there."""
    for seed in family[0].index:
        if all(seed in points.index for points in family):
            yield seed, front(np.array([points.loc[seed] for points in family], dtype=np.float64))


def _compare(points: pd.DataFrame, fronts: Mapping[int, np.ndarray]) -> tuple[float, float, int, int, int] | None:
    """Mean, half, n, below, above of an arm's points (a row a seed: loss, forgetting); None without a common seed."""
    differences, below, above = [], 0, 0
    for seed, (loss, forgotten) in points.iterrows():
        if seed in fronts:
            curve = fronts[seed]
            differences.append(forgotten - np.interp(loss, curve[:, 0], curve[:, 1]))
            below += loss < curve[0, 0]
            above += loss > curve[-1, 0]
    interval = mean_interval(differences)
    if interval is None:
        return None
    return interval.mean, np.nan if interval.half is None else interval.half, interval.n, below, above
