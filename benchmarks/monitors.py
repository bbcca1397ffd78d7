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
import pyarrow.parquet as pq
from scipy.stats import rankdata

from lethe.config import UserError
from lethe.program import run_program

EARLY = 0.12
RESAMPLES = 1000
FEWEST_ARMS = 3
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
        tables.append(pq.read_table(folder / name).to_pylist())
    curves: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    for row in tables[1]:
        curve = curves.setdefault((row["cell"], row["stage"]), {})
        curve.setdefault(row["name"], {})[row["tokens"]] = row["value"]
    marks: dict[str, list[dict[str, Any]]] = {}
    for cell in tables[0]:
        earlier = [
            name.split("/")[1] for name, lost in cell.items() if name.startswith("forgetting/") and lost is not None
        ]
        for (name, stage), curve in curves.items():
            if name == cell["cell"] and "kl_self" in curve and (name, stage - 1) in curves:
                group = f"{cell['baseline']} {cell['model']} stage {stage + 1}"
                marks.setdefault(group, []).extend(_marks(cell, curve, curves[name, stage - 1], earlier))
    if not any(marks.values()):
        raise UserError(f"{folder / 'curves.parquet'}: found no kl_self; allowed: runs with evaluation.monitors: true")
    return {group: _points(found) for group, found in marks.items() if found}


def _marks(cell: dict[str, Any], curve: dict, before: dict, earlier: list[str]) -> list[dict[str, Any]]:
    """The marks of one stage as rows: arm, seed, share, forgetting and every monitor."""
    own = next(name for name in curve if name.startswith("kl/")).removeprefix("kl/")
    lost = [f"loss/{corpus}" for corpus in earlier if corpus != own]
    tokens, rows = sorted(curve["kl_self"]), []
    for token in tokens if lost else ():
        row = {"arm": f"r{cell['interleaving_ratio']:g} {cell['intervention']}", "seed": cell["seed"]}
        row["share"] = (token - tokens[0]) / max(tokens[-1] - tokens[0], 1)
        row["forgetting"] = np.mean([curve[name][token] - _last(before[name]) for name in lost])
        row["tokens"] = token - tokens[0]
        row["gain on B"] = _last(before[f"loss/{own}"]) - curve[f"loss/{own}"][token]
        for name in curve:
            if name in ("kl_self", "weight_distance") or name.startswith("kl/"):
                row[name.replace(f"kl/{own}", "kl/B")] = curve[name][token]
            elif name.startswith("cka"):
                row[f"1 - {name.replace(f'cka/{own}', 'cka/B')}"] = 1 - curve[name][token]
        rows.append(row)
    return rows


def _last(points: dict[int, float]) -> float:
    return points[max(points)]


def _points(rows: list[dict[str, Any]]) -> Points:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    values = {name: columns[name] for name in names if name not in ("arm", "seed", "share", "forgetting")}
    return Points(columns["arm"], columns["seed"], columns["share"], columns["forgetting"], values)


def contest(points: Points) -> dict[str, Any]:
    """Every figure of one contest; see the module's docstring."""
    moving, ends = points[points.share > 0], points[np.array([run[-1] for run in points.runs])]
    monitors = {name: _figures(name, moving, ends) for name in points.values}
    seen, final = _early(points)
    monitors["forgetting so far"] = {"early": bootstrap(seen.arm, spearman, seen.forgetting, final)}
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
    figures: dict[str, Any] = {"pooled": bootstrap(moving.arm, spearman, value, moving.forgetting)}
    there = _with(moving, *COVARIATES)
    if name not in COVARIATES and len(there.arm):
        given = [there.values[covariate] for covariate in COVARIATES]
        figures["partial"] = bootstrap(there.arm, partial, there.values[name], there.forgetting, *given)
    figures["ends"] = bootstrap(ends.arm, spearman, ends.values[name], ends.forgetting)
    seen, final = _early(moving)
    figures["early"] = bootstrap(seen.arm, spearman, seen.values[name], final)
    figures["without one"] = leave_one_out(moving.arm, spearman, value, moving.forgetting)
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


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of the ranks of x and y (float64 [n]), ties sharing the mean of theirs; nan where one is constant."""
    return _correlation(rankdata(x), rankdata(y))


def partial(x: np.ndarray, y: np.ndarray, *given: np.ndarray) -> float:
    """The same of what is left of the ranks of x and y after least squares on those of `given`; nan if nothing is."""
    design = np.stack([np.ones(len(x)), *(rankdata(each) for each in given)], axis=1)
    ranked = np.stack([rankdata(x), rankdata(y)], axis=1)
    left = ranked - design @ np.linalg.lstsq(design, ranked, rcond=None)[0]
    left[:, np.linalg.norm(left, axis=0) < 1e-9 * np.linalg.norm(ranked, axis=0)] = 0  # explained, but for rounding
    return _correlation(left[:, 0], left[:, 1])


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size else np.nan


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


def leave_one_out(arms: np.ndarray, statistic: Callable[..., float], *columns: np.ndarray) -> list[float | None]:
    """The lowest and highest value of the statistic when one arm is left out."""
    values = [statistic(*(column[arms != arm] for column in columns)) for arm in np.unique(arms)]
    defined = [float(value) for value in values if np.isfinite(value)]
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
