"""Loss over tokens: the sequence with its switches, and the branches that learn a corpus again."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from grid.report.content import Picture, Run, Section, Table, about_intervals, each_setting, number
from grid.report.groups import Group, corpora_of, forgotten, seed_groups, settings, unique, waiting
from grid.report.style import NEUTRAL, draw, draw_band, looks, panels, plain, rule, spread, styled
from grid.results import RELEARNING
from lethe.evaluation.intervals import mean_interval


def section(run: Run) -> Section | None:
    """None without a curve."""
    parts: list[Picture | Table] = []
    again: list[Picture | Table] = []
    for key, title, results, here in each_setting(run) or [("", "", run.results, run.groups)]:
        figure = loss_curves(results, run.curves)
        if figure.data:
            note = (
                "Lines are means over seeds, bands their 95 % intervals; the dashed vertical line is the switch "
                "between stages. Grey is training on all corpora at once."
            )
            name = f"Loss of each corpus over the sequence{title}"
            parts.append(Picture(f"curves{key}", name, note, figure, _spoken(run, here), choose=True))
        figure = relearning_curves(results, run.curves)
        if figure.data:
            note = (
                "After the sequence a short side branch returns to the earlier corpus. Grey is the first time that "
                "it was learned; the dashed level is the loss it had reached then."
            )
            again.append(
                Picture(
                    f"relearning{key}", f"Learned again{title}", note, figure, _spoken_relearning(here), choose=True
                )
            )
    lead = "Look at what happens right after the switch: most of what is lost is lost there. "
    lead += "What is learned again much faster than the first time was not gone. " if again else ""
    lead += about_intervals(run)
    return Section("curves", "Curves", lead, parts=[*parts, *again]) if parts else None


def loss_curves(results: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """Loss of each corpus against tokens over the whole sequence: a row per baseline and model, a column per corpus.

    A line is the mean over finished seeds, its band the interval; dashed vertical lines are the switches, grey the
    curve of `combined`. Of many arms only the leading ones are drawn; the others wait in the legend.
    """
    groups, corpora, lines = seed_groups(results), corpora_of(results), _lines(curves)
    everything = [g for g in groups if g.ratio is None and g.intervention is None]
    rows = unique((g.baseline, g.model) for g in groups if g not in everything and _has(g, lines))
    rows = rows or unique((g.baseline, g.model) for g in groups if _has(g, lines))
    titles = [f"{b}, {m}" if i == 0 else "" for b, m in rows for i in range(len(corpora))]
    figure = panels(len(rows), len(corpora), titles, shared_yaxes="columns")
    styles = looks(groups)
    for (row, (baseline, model)), (column, x) in spread(rows, corpora):
        panel = Panel(figure, row, column, set())
        for group in groups:
            own = (group.baseline, group.model) == (baseline, model)
            if own or (group in everything and group.model == model):
                style = styles[group.name] if own and group not in everything else _grey()
                _arm(panel, group.name, _seeds(group, lines, f"loss/{x}"), style)
        for switch in _switches([g for g in groups if (g.baseline, g.model) == (baseline, model)], lines):
            rule(figure, row, column, x=switch)
        figure.update_yaxes(title=plain(f"{x}, nats"), row=row, col=column)
    figure.update_xaxes(title="tokens", row=max(1, len(rows)))
    return styled(figure, 270 * max(1, len(rows)), waiting(groups))


def relearning_curves(results: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """Loss on an earlier corpus along the branch that learns it again, against the branch's tokens, by arm.

    Grey is its first learning as far as the branch goes, dashed the loss at the end of that.
    """
    groups, lines, styles = seed_groups(results), _lines(curves), looks(seed_groups(results))
    wanted = [(b, m, x, here) for b, m, here in settings(groups) for x in forgotten(here)]
    found = [s for s in wanted if any(_seeds(g, lines, _again(s[2])) for g in s[3])]
    figure = panels(len(found), 1, [f"{b}, {m}: {x}" for b, m, x, _ in found])
    for row, (_, _, x, here) in enumerate(found, 1):
        panel, length = Panel(figure, row, 1, set()), 0
        for group in here:
            seeds = [_from_zero(seed) for seed in _seeds(group, lines, _again(x))]
            length = max([length, *(int(seed["tokens"].max()) for seed in seeds)])
            _arm(panel, group.name, seeds, styles[group.name])
        first = _first_time(here, lines, x)
        _arm(panel, "the first time", [seed[seed["tokens"] <= length] for seed in first], _grey())
        levels = [level for g in here for level in g.values(f"learned_loss/{x}")]
        if levels:
            rule(figure, row, 1, y=float(np.mean(levels)))
        figure.update_yaxes(title=plain(f"{x}, nats"), row=row)
    figure.update_xaxes(title="tokens since the sequence ended", row=max(1, len(found)))
    return styled(figure, 270 * max(1, len(found)), waiting(groups))


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


Lines = dict[tuple[str, str], pd.DataFrame]


class Panel(NamedTuple):
    """Where to draw, and the bands that are there."""

    figure: go.Figure
    row: int
    column: int
    bands: set[bytes]


def _lines(curves: pd.DataFrame) -> Lines:
    ordered = curves.sort_values(["stage", "tokens"], kind="stable")
    return dict(iter(ordered.groupby(["cell", "name"])[["stage", "tokens", "value"]]))


def _seeds(group: Group, lines: Lines, name: str) -> list[pd.DataFrame]:
    return [lines[cell, name] for cell in group.finished["cell"] if (cell, name) in lines]


def _has(group: Group, lines: Lines) -> bool:
    return any((cell, name) in lines for cell in group.finished["cell"] for name in _loss_names(lines))


def _loss_names(lines: Lines) -> list[str]:
    return unique(name for _, name in lines if name.startswith("loss/"))


def _arm(panel: Panel, name: str, seeds: list[pd.DataFrame], style: dict) -> None:
    """A line and its band; a stage that several arms share has one band, or they would add up."""
    curve = mean_curve(seeds)
    for stage in np.unique(curve[:, 0]):
        band = curve[curve[:, 0] == stage][:, [1, 3, 4]]
        if band.tobytes() not in panel.bands:
            draw_band(panel.figure, panel.row, panel.column, name, band, **style)
            panel.bands.add(band.tobytes())
    draw(panel.figure, panel.row, panel.column, name, curve[:, 1:3], mode="lines", line=style["line"])


def _switches(groups: list[Group], lines: Lines) -> list[int]:
    ends = set()
    for name in _loss_names(lines):
        for seed in (seed for g in groups for seed in _seeds(g, lines, name)):
            ends |= set(seed.groupby("stage")["tokens"].max().iloc[:-1].astype(int))
    return sorted(ends)


def _first_time(here: list[Group], lines: Lines, corpus: str) -> list[pd.DataFrame]:
    """Of each seed the curve of the stage in which the corpus was learned: the one that ended at `learned_loss`."""
    found: dict[int, pd.DataFrame] = {}
    for group in here:
        learned = group.by_seed(f"learned_loss/{corpus}")
        for cell, seed in zip(group.finished["cell"], group.finished["seed"], strict=True):
            curve = lines.get((cell, f"loss/{corpus}"))
            for _, stage in () if curve is None or seed not in learned else curve.groupby("stage"):
                if stage["value"].iloc[-1] == learned[seed]:
                    found.setdefault(seed, _from_zero(stage).assign(stage=0))
    return list(found.values())


def _from_zero(seed: pd.DataFrame) -> pd.DataFrame:
    return seed.assign(tokens=seed["tokens"] - seed["tokens"].min())


def _again(corpus: str) -> str:
    return f"{RELEARNING}/{corpus}/loss/{corpus}"


def _grey() -> dict[str, Any]:
    return {"line": {"color": NEUTRAL, "width": 1.5}, "marker": {"color": NEUTRAL}}


def _spoken(run: Run, here: list[Group]) -> str:
    return "; ".join(
        f"{g.baseline}, {g.model}, {g.name} ends at "
        + " and ".join(f"{number(g.mean(f'final_loss/{x}'), 2)} nats on {x}" for x in run.corpora)
        for g in here
        if len(g.finished)
    )


def _spoken_relearning(here: list[Group]) -> str:
    return "; ".join(
        f"{g.baseline}, {g.model}, {g.name}: {number(100 * saved, 0)} % of the tokens saved on {x}"
        for x in forgotten(here)
        for g in here
        if (saved := g.mean(f"relearning_savings/{x}")) == saved
    )
