"""Which monitor tells how much is forgotten: a contest on a finished grid, `python -m benchmarks.monitors RUN_FOLDER`.

It reads `curves.parquet` and `results.parquet` of a run with `stage: {evaluation: {monitors: true}}`. Forgetting is the
mean rise of the loss on the corpora learned before a stage, since that stage began. Each stage after the first, by
baseline and model, is a contest of its own over its arms (ratio and intervention), seeds and marks; a monitor that an
arm does not have (a mixture of models has no geometry) is judged on the others:

pooled       Spearman's correlation with forgetting over all marks but a stage's first, where nothing has moved yet
partial      the same, of ranks, with what tokens and weight distance explain taken out of both
ends         Spearman over the ends of stages alone (those of arms derived without a step too): does it rank methods?
early        Spearman of the last value within 12 % of the stage with forgetting at its end
without one  lowest and highest pooled correlation when one arm is left out

In brackets 95 % intervals of a bootstrap over arms. The calibration of kl_self is a line through other seeds (or other
arms), judged on the seed (arm) left out. Prints tables, and as its last line one JSON object.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from grid.report.monitors import FEWEST_ARMS, RESAMPLES, interval_over_arms, monitored, spearman
from lethe.config import UserError
from lethe.program import run_program

EARLY = 0.12
COVARIATES = ("tokens", "weight_distance")
COLUMNS = ("pooled", "partial", "ends", "early", "without one")


@dataclass(frozen=True)
class Points:
    """The marks of one contest, [n] each; `values` by monitor, nan where it lacks. `share`: of the stage's tokens."""

    arm: np.ndarray
    seed: np.ndarray
    share: np.ndarray
    forgetting: np.ndarray
    values: dict[str, np.ndarray]

    def __getitem__(self, chosen: np.ndarray) -> "Points":
        values = {name: value[chosen] for name, value in self.values.items()}
        return Points(self.arm[chosen], self.seed[chosen], self.share[chosen], self.forgetting[chosen], values)

    @property
    def runs(self) -> list[np.ndarray]:
        """The marks of each arm and seed, in order of time."""
        pairs = sorted(set(zip(self.arm.tolist(), self.seed.tolist(), strict=True)))
        return [np.flatnonzero((self.arm == arm) & (self.seed == seed)) for arm, seed in pairs]


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run", metavar="RUN_FOLDER", type=Path, help="runs/NAME of a finished grid")
    found = {}
    for name, points in read(arguments.parse_args(argv).run).items():
        arms = len(np.unique(points.arm))
        if arms < FEWEST_ARMS:
            print(f"{name}: left out, {arms} arms; needed: {FEWEST_ARMS}\n")
            continue
        found[name] = contest(points)
        print(table(name, found[name]), end="\n\n")
    print(json.dumps(found))
    return 0


def read(folder: Path) -> dict[str, Points]:
    """The contests of a run by name; UserError for a folder without results, or results without monitors."""
    tables = []
    for name in ("results.parquet", "curves.parquet"):
        if not (folder / name).is_file():
            raise UserError(f"RUN_FOLDER: found no {name} in {folder}; allowed: the runs/NAME of a finished grid")
        tables.append(pd.read_parquet(folder / name))
    found: dict[str, list[pd.DataFrame]] = {}
    for group, seed, stage, wide in monitored(*tables):
        rows = _marks(wide).assign(arm=f"r{group.ratio:g} {group.intervention}", seed=seed)
        found.setdefault(f"{group.baseline} {group.model} stage {stage + 1}", []).append(rows)
    if not found:
        raise UserError(f"{folder / 'curves.parquet'}: found no kl_self; allowed: runs with evaluation.monitors: true")
    return {name: _points(pd.concat(rows)) for name, rows in found.items()}


def _marks(wide: pd.DataFrame) -> pd.DataFrame:
    """Of the marks of one stage, as `monitored` gives them: share, forgetting and every monitor."""
    own = next(name for name in wide if name.startswith("kl/")).removeprefix("kl/")
    rows = wide[["forgetting"]].assign(share=wide.index / max(wide.index.max(), 1), tokens=wide.index)
    rows["gain on B"] = -wide[f"rise/{own}"]
    for name in wide:
        if name in ("kl_self", "weight_distance") or name.startswith("kl/"):
            rows[name.replace(f"kl/{own}", "kl/B")] = wide[name]
        elif name.startswith("cka"):
            rows[f"1 - {name.replace(f'cka/{own}', 'cka/B')}"] = 1 - wide[name]
    return rows


def _points(rows: pd.DataFrame) -> Points:
    named = ("arm", "seed", "share", "forgetting")
    values = {name: rows[name].to_numpy(np.float64) for name in rows if name not in named}
    arm, seed, share, forgetting = (rows[name].to_numpy() for name in named)
    return Points(arm, seed, share, forgetting, values)


def contest(points: Points) -> dict[str, Any]:
    """Every figure of one contest; see the module's docstring."""
    moving, ends = points[points.share > 0], points[np.array([run[-1] for run in points.runs])]
    monitors = {name: _figures(name, moving, ends) for name in points.values}
    seen, final = _early(points)
    monitors["forgetting so far"] = {"early": correlation(seen.arm, seen.forgetting, final)}
    return {
        "arms": len(np.unique(points.arm)),
        "seeds": len(np.unique(points.seed)),
        "points": len(moving.arm),
        "monitors": monitors,
        "calibration": calibration(moving),
    }


def _figures(name: str, moving: Points, ends: Points) -> dict[str, Any]:
    moving, ends = (_with(points, name) for points in (moving, ends))
    value = moving.values[name]
    figures: dict[str, Any] = {"pooled": correlation(moving.arm, value, moving.forgetting)}
    there = _with(moving, *COVARIATES)
    if name not in COVARIATES and len(there.arm):
        given = [there.values[covariate] for covariate in COVARIATES]
        figures["partial"] = bootstrap(there.arm, partial, there.values[name], there.forgetting, *given)
    figures["ends"] = correlation(ends.arm, ends.values[name], ends.forgetting)
    seen, final = _early(moving)
    figures["early"] = correlation(seen.arm, seen.values[name], final)
    figures["without one"] = leave_one_out(moving.arm, value, moving.forgetting)
    return figures


def _with(points: Points, *names: str) -> Points:
    """The marks that have all of these monitors."""
    there = np.ones(len(points.arm), dtype=bool)
    for name in names:
        there &= np.isfinite(points.values.get(name, np.nan))
    return points[there]


def _early(points: Points) -> tuple[Points, np.ndarray]:
    """Of every run that has one, its last mark within EARLY of the stage; and its forgetting at the end."""
    pairs = []
    for run in points.runs:
        early = run[(points.share[run] > 0) & (points.share[run] <= EARLY)]
        if len(early):
            pairs.append((early[-1], run[-1]))
    early, last = np.array(pairs, dtype=int).reshape(-1, 2).T
    return points[early], points.forgetting[last]


def calibration(points: Points) -> dict[str, Any]:
    """Forgetting in nats from kl_self: the line through all points, and the mean absolute error out of sample."""
    gauge, lost = points.values["kl_self"], points.forgetting
    slope, intercept = np.polyfit(gauge, lost, 1)
    error: dict[str, Any] = {"kl_self as it is": np.abs(lost - gauge)}
    for name, held_out in (("a line through other seeds", points.seed), ("a line through other arms", points.arm)):
        error[name] = _out_of_sample(gauge, lost, held_out)
    errors = {name: bootstrap(points.arm, np.mean, each) for name, each in error.items() if each is not None}
    return {"slope": float(slope), "intercept": float(intercept), "mean absolute error": errors}


def _out_of_sample(gauge: np.ndarray, lost: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
    """Absolute errors of lines, each fitted without the group that it is judged on; None for a single group."""
    if len(np.unique(groups)) < 2:
        return None
    errors = np.empty(len(lost))
    for group in np.unique(groups):
        own = groups == group
        errors[own] = np.abs(np.polyval(np.polyfit(gauge[~own], lost[~own], 1), gauge[own]) - lost[own])
    return errors


def correlation(arms: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[float | None]:
    """Spearman's, with its interval over arms; None for what is not a number."""
    value = float(spearman(x, y)[0])
    return [value, *(interval_over_arms(arms, x, y) or (None, None))] if np.isfinite(value) else [None] * 3


def partial(x: np.ndarray, y: np.ndarray, *given: np.ndarray) -> float:
    """Spearman's of what is left of x and y after least squares of ranks on those of `given`; nan if nothing is."""
    design = np.stack([np.ones(len(x)), *(rankdata(each) for each in given)], axis=1)
    ranked = np.stack([rankdata(x), rankdata(y)], axis=1)
    left = ranked - design @ np.linalg.lstsq(design, ranked, rcond=None)[0]
    left[:, np.linalg.norm(left, axis=0) < 1e-9 * np.linalg.norm(ranked, axis=0)] = 0  # explained, but for rounding
    one, other = (left - left.mean(axis=0)).T
    size = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / size) if size else np.nan


def bootstrap(arms: np.ndarray, statistic: Callable[..., float], *columns: np.ndarray) -> list[float | None]:
    """The statistic of the columns (float64 [n]), and its 95 % interval when whole arms are drawn with replacement.

    Percentiles (Efron 1979) over RESAMPLES draws, always the same; None for what is not a number.
    """
    names = np.unique(arms)
    members = [np.flatnonzero(arms == name) for name in names]
    drawn = []
    for draw in np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names))):
        rows = np.concatenate([members[arm] for arm in draw])
        drawn.append(statistic(*(column[rows] for column in columns)))
    defined = np.array(drawn)[np.isfinite(drawn)]
    interval = np.percentile(defined, [2.5, 97.5]).tolist() if len(defined) else [np.nan, np.nan]
    return [float(value) if np.isfinite(value) else None for value in (statistic(*columns), *interval)]


def leave_one_out(arms: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[float | None]:
    """The lowest and highest of Spearman's correlations when one arm is left out."""
    values = [float(spearman(x[arms != arm], y[arms != arm])[0]) for arm in np.unique(arms)]
    defined = [value for value in values if np.isfinite(value)]
    return [min(defined), max(defined)] if defined else [None, None]


def table(name: str, found: dict[str, Any]) -> str:
    """For people: a line a monitor, the best first by the pooled correlation, and the calibration."""
    lines = [f"{name}: {found['arms']} arms, {found['seeds']} seeds, {found['points']} points"]
    lines.append(f"{'monitor':<20}" + "".join(f"{column:<22}" for column in COLUMNS))
    order = sorted(found["monitors"].items(), key=lambda item: -abs((item[1].get("pooled") or [0])[0] or 0))
    for monitor, figures in order:
        lines.append(f"{monitor:<20}" + "".join(f"{_shown(figures.get(column)):<22}" for column in COLUMNS).rstrip())
    fit = found["calibration"]
    lines.append(f"forgetting = {fit['slope']:.2f} kl_self {fit['intercept']:+.2f}; mean absolute error, nats:")
    lines += [f"  {way:<28}{_shown(error)}" for way, error in fit["mean absolute error"].items()]
    return "\n".join(lines)


def _shown(figure: Sequence[float | None] | None) -> str:
    if figure is None:
        return ""
    numbers = ["-" if value is None else f"{value:.2f}" for value in figure]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]" if len(numbers) == 3 else f"{numbers[0]} to {numbers[1]}"


if __name__ == "__main__":
    run_program(main)
