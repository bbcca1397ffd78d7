"""Lines over tokens of an arm: those of its seeds, their mean and its interval."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from grid.report.groups import Group
from grid.report.style import Look, draw, draw_band
from lethe.evaluation.intervals import mean_interval

Lines = dict[tuple[str, str], pd.DataFrame]


class Panel(NamedTuple):
    """Where to draw, and the bands that are there."""

    figure: go.Figure
    row: int
    column: int
    bands: set[bytes]


def mean_curve(seeds: list[pd.DataFrame]) -> np.ndarray:
    """Of the marks of all seeds float64 [n, 5]: stage, tokens, mean, low, high; the last two nan with one seed."""
    if not seeds:
        return np.empty((0, 5))
    rows = []
    for (stage, tokens), values in pd.concat(seeds).groupby(["stage", "tokens"])["value"]:
        if len(values) == len(seeds) and (found := mean_interval(values)):
            half = np.nan if found.half is None else found.half
            rows.append((stage, tokens, found.mean, found.mean - half, found.mean + half))
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def lines_of(curves: pd.DataFrame) -> Lines:
    ordered = curves.sort_values(["stage", "tokens"], kind="stable")
    return dict(iter(ordered.groupby(["cell", "name"])[["stage", "tokens", "value"]]))


def seeds_of(group: Group, lines: Lines, name: str) -> list[pd.DataFrame]:
    return [lines[cell, name] for cell in group.finished["cell"] if (cell, name) in lines]


def draw_arm(panel: Panel, name: str, seeds: list[pd.DataFrame], style: Look) -> None:
    """A line and its band; a stage that several arms share has one band, or they would add up."""
    curve = mean_curve(seeds)
    for stage in np.unique(curve[:, 0]):
        band = curve[curve[:, 0] == stage][:, [1, 3, 4]]
        if band.tobytes() not in panel.bands:
            draw_band(panel.figure, panel.row, panel.column, name, band, **style)
            panel.bands.add(band.tobytes())
    draw(panel.figure, panel.row, panel.column, name, curve[:, 1:3], mode="lines", line=style["line"])


def from_zero(seed: pd.DataFrame) -> pd.DataFrame:
    return seed.assign(tokens=seed["tokens"] - seed["tokens"].min())
