"""Loss over tokens: the sequence with its switches, and the branches that learn a corpus again."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from grid.report.content import Picture, Run, Section, Table, about_intervals, each_setting, number
from grid.report.drift import draw_spent, pictures, was_spent
from grid.report.groups import Group, corpora_of, forgotten, seed_groups, settings, unique, waiting
from grid.report.lines import Lines, Panel, draw_arm, from_zero, lines_of, seeds_of
from grid.report.style import NEUTRAL, PANEL_HEIGHT, looks, panels, plain, rule, spread, styled
from grid.results import RELEARNING


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
            if was_spent(results, run.curves):
                note += (
                    " Thin dotted lines, one a seed, are what was spent until the drift fired and the stage was rolled "
                    "back to the switch, at the cross; the flat end leads there from the last loss measured."
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
    return Section("curves", "Curves", lead, parts=[*parts, *pictures(run), *again]) if parts else None


def loss_curves(results: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """Loss of each corpus against tokens over the whole sequence: a row per baseline and model, a column per corpus.

    A line is the mean over finished seeds, its band the interval; dashed vertical lines are the switches, grey the
    curve of `combined`; thin and dotted is what a stage spent until it was rolled back. Of many arms only the leading
    ones are drawn; the others wait in the legend.
    """
    groups, corpora, lines = seed_groups(results), corpora_of(results), lines_of(curves)
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
                draw_arm(panel, group.name, seeds_of(group, lines, f"loss/{x}"), style)
                draw_spent(panel, group, lines, f"loss/{x}", style)
        for switch in _switches([g for g in groups if (g.baseline, g.model) == (baseline, model)], lines):
            rule(figure, row, column, x=switch)
        figure.update_yaxes(title=plain(f"{x}, nats"), row=row, col=column)
    figure.update_xaxes(title="tokens", row=max(1, len(rows)))
    return styled(figure, PANEL_HEIGHT * max(1, len(rows)), waiting(groups))


def relearning_curves(results: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """Loss on an earlier corpus along the branch that learns it again, against the branch's tokens, by arm.

    Grey is its first learning as far as the branch goes, dashed the loss at the end of that.
    """
    groups, lines, styles = seed_groups(results), lines_of(curves), looks(seed_groups(results))
    wanted = [(b, m, x, here) for b, m, here in settings(groups) for x in forgotten(here)]
    found = [s for s in wanted if any(seeds_of(g, lines, _again(s[2])) for g in s[3])]
    figure = panels(len(found), 1, [f"{b}, {m}: {x}" for b, m, x, _ in found])
    for row, (_, _, x, here) in enumerate(found, 1):
        panel, length = Panel(figure, row, 1, set()), 0
        for group in here:
            seeds = [from_zero(seed) for seed in seeds_of(group, lines, _again(x))]
            length = max([length, *(int(seed["tokens"].max()) for seed in seeds)])
            draw_arm(panel, group.name, seeds, styles[group.name])
        first = _first_time(here, lines, x)
        draw_arm(panel, "the first time", [seed[seed["tokens"] <= length] for seed in first], _grey())
        levels = [level for g in here for level in g.values(f"learned_loss/{x}")]
        if levels:
            rule(figure, row, 1, y=float(np.mean(levels)))
        figure.update_yaxes(title=plain(f"{x}, nats"), row=row)
    figure.update_xaxes(title="tokens since the sequence ended", row=max(1, len(found)))
    return styled(figure, PANEL_HEIGHT * max(1, len(found)), waiting(groups))


def _has(group: Group, lines: Lines) -> bool:
    return any((cell, name) in lines for cell in group.finished["cell"] for name in _loss_names(lines))


def _loss_names(lines: Lines) -> list[str]:
    return unique(name for _, name in lines if name.startswith("loss/"))


def _switches(groups: list[Group], lines: Lines) -> list[int]:
    ends = set()
    for name in _loss_names(lines):
        for seed in (seed for g in groups for seed in seeds_of(g, lines, name)):
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
                    found.setdefault(seed, from_zero(stage).assign(stage=0))
    return list(found.values())


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
