"""The arms of a grid: cells that differ only in their seed, their names, and which of many to show first."""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd

from grid.matched import front
from grid.summary import ARM
from lethe.evaluation.intervals import Interval, mean_interval, paired_difference

MANY = 7  # arms are all drawn at first up to this many
FIRST = 3  # of the arms on the front, beside the interleaving family
FEW = 4  # where each takes a picture of its own


@dataclass(frozen=True, eq=False)
class Group:
    """An arm; `combined` has neither ratio nor intervention."""

    baseline: str
    model: str
    ratio: float | None
    intervention: str | None
    cells: pd.DataFrame
    finished: pd.DataFrame

    @cached_property
    def kind(self) -> str | None:
        """The kind of its intervention; its label where the results do not say."""
        known = unique(self.cells["intervention_kind"].dropna()) if "intervention_kind" in self.cells else []
        return str(known[0]) if known else self.intervention

    @property
    def is_interleaving(self) -> bool:
        """Plain training at any ratio, 0 included."""
        return self.kind == "none" and self.ratio is not None

    @cached_property
    def name(self) -> str:
        """What tells it from the other arms of its baseline and model."""
        if self.ratio is None and self.intervention is None:
            return self.baseline
        mixed = f"interleaving {percent(self.ratio)}"
        if self.kind == "none":
            name = mixed if self.ratio else "plain"
            return name if self.intervention in ("none", None) else f"{name} ({self.intervention})"
        return f"{self.intervention} + {mixed}" if self.ratio else str(self.intervention)

    @cache  # noqa: B019 - as long as the group, which is as long as the page
    def by_seed(self, metric: str) -> dict[Hashable, float | None]:
        """The metric of each finished cell by its seed, where it is a number."""
        if metric not in self.finished:
            return {}
        values = pd.to_numeric(self.finished[metric]).to_numpy(np.float64, na_value=np.nan)
        seeds = self.finished["seed"].astype(int)
        return {seed: float(value) for seed, value in zip(seeds, values, strict=True) if math.isfinite(value)}

    def values(self, metric: str) -> list[float]:
        return [value for value in self.by_seed(metric).values() if value is not None]

    def interval(self, metric: str) -> Interval | None:
        """The mean over seeds with its interval; None where the metric is undefined for all of them."""
        return mean_interval(self.values(metric))

    def mean(self, metric: str) -> float:
        """As `interval`; nan where that is None."""
        found = self.interval(metric)
        return found.mean if found else math.nan

    def minus(self, other: "Group | None", metric: str) -> Interval | None:
        """The mean of the differences from another arm, paired by seed."""
        return paired_difference(self.by_seed(metric), other.by_seed(metric)) if other else None


def seed_groups(results: pd.DataFrame) -> list[Group]:
    """The arms of the results; baselines, models and labels in the order of the table, ratios ascending."""
    results = results.dropna(subset=["baseline", "model"])
    groups = []
    for (baseline, model, *rest), cells in results.groupby(ARM, dropna=False, sort=False):
        ratio, intervention = (None if pd.isna(part) else part for part in rest)
        groups.append(Group(baseline, model, ratio, intervention, cells, cells[cells["status"] == "finished"]))
    baselines, models = unique(results["baseline"]), unique(results["model"])
    return sorted(
        groups,
        key=lambda g: (baselines.index(g.baseline), models.index(g.model), -1 if g.ratio is None else g.ratio),
    )


def corpora_of(results: pd.DataFrame) -> list[str]:
    return [column.removeprefix("final_loss/") for column in results if column.startswith("final_loss/")]


def settings(groups: list[Group]) -> list[tuple[str, str, list[Group]]]:
    """Baseline, model and arms of each pair of the first two that has an arm with a forgetting."""
    pairs = unique((g.baseline, g.model) for g in groups)
    found = [(b, m, [g for g in groups if (g.baseline, g.model) == (b, m)]) for b, m in pairs]
    return [(b, m, here) for b, m, here in found if any(forgotten(here))]


def forgotten(groups: list[Group]) -> list[str]:
    """The corpora that these arms can forget."""
    columns = unique(column for g in groups for column in g.finished if str(column).startswith("forgetting/"))
    return [column.split("/", 1)[1] for column in columns if any(g.values(column) for g in groups)]


def learned_last(groups: list[Group]) -> list[str]:
    """The corpora that these arms learned and cannot have forgotten yet."""
    columns = unique(column for g in groups for column in g.finished if str(column).startswith("learned_loss/"))
    names = [column.split("/", 1)[1] for column in columns if any(g.values(column) for g in groups)]
    return [name for name in names if name not in forgotten(groups)]


def plain_of(groups: list[Group]) -> Group | None:
    """Of the arms of one baseline and model the one without interleaving or intervention."""
    return next((g for g in groups if g.is_interleaving and g.ratio == 0), None)


def leading(groups: list[Group], earlier: str, later: str | None) -> list[Group]:
    """Of the arms of one baseline and model those to show first: the interleaving family and the front's best.

    The front is that of the mean loss on `later` and forgetting of `earlier`; without `later` they are those that
    forget least.
    """
    family, others = [g for g in groups if g.is_interleaving], [g for g in groups if not g.is_interleaving]
    others = sorted(
        (g for g in others if g.values(f"forgetting/{earlier}")), key=lambda g: g.mean(f"forgetting/{earlier}")
    )
    if later is not None and others:
        best = on_front([*family, *others], earlier, later)
        others = [g for g in others if g in best]
    return [*family, *others[:FIRST]]


def few(groups: list[Group]) -> list[Group]:
    """Of the arms of one baseline and model at most FEW: plain training, the highest ratio, and the leading ones."""
    first = unique(g for x in forgotten(groups) for g in leading(groups, x, next(iter(learned_last(groups)), None)))
    family, others = [g for g in first if g.is_interleaving], [g for g in first if not g.is_interleaving]
    return [*family[:1], *family[1:][-1:], *others][:FEW]


def waiting(groups: list[Group]) -> set[str]:
    """The names of the arms that are not drawn at first: none where arms are few, else all but the leading ones."""
    names = unique(g.name for g in groups if g.intervention is not None)
    if len(names) <= MANY:
        return set()
    shown = {
        g.name
        for _, _, here in settings(groups)
        for earlier in forgotten(here)
        for later in [*learned_last(here), None][:1]
        for g in leading(here, earlier, later)
    }
    return set(names) - shown if shown else set()


def on_front(groups: list[Group], earlier: str, later: str) -> list[Group]:
    """The arms that no other beats in both means: forgetting of `earlier` and loss on `later`, by the latter."""
    metrics = (f"final_loss/{later}", f"forgetting/{earlier}")
    placed = {tuple(g.mean(metric) for metric in metrics): g for g in groups if all(map(g.values, metrics))}
    return [placed[tuple(point)] for point in front(np.array(list(placed)).reshape(-1, 2)).tolist()] if placed else []


def percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:g} %"


def unique(names: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(names))
