"""Forgetting by arm: against the interleaving ratio with the fitted decline, and every arm beside every other."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from grid.report.content import (
    Column,
    Picture,
    Run,
    Section,
    Table,
    Value,
    about_intervals,
    each_setting,
    measured,
    number,
    text,
    with_interval,
)
from grid.report.groups import Group, forgotten, percent, seed_groups, settings, unique
from grid.report.style import COLOURS, FAMILY, PANEL_HEIGHT, draw, errors, look, looks, panels, plain, rule, styled
from lethe.evaluation.fits import PowerLaw, fit_decline

ROW, MOST_ROWS = 21, 3  # pixels an arm; panels one below the other
Family = tuple[str, str, str, str, list[Group]]


def section(run: Run) -> Section | None:
    """None where nothing was forgotten."""
    if not settings(run.groups):
        return None
    parts: list[Picture | Table] = []
    families = _families(run.groups)
    rows = unique((baseline, earlier) for baseline, _, _, earlier, _ in families)
    every, alone = unique(baseline for baseline, _ in rows), len(rows) > MOST_ROWS
    for baselines in [[baseline] for baseline in every] if alone else [every]:
        parts.append(_by_ratio(run, baselines, [f for f in families if f[0] in baselines], alone))
    parts += [table] if families and (table := _declines(families)) else []
    for key, title, results, here in each_setting(run):
        if len(here) > 1:
            parts.append(
                Picture(
                    f"forgetting-by-arm{key}",
                    f"Forgetting of every arm{title}",
                    "From the least forgetting to the most, means with 95 % intervals over seeds. An arm may forget "
                    "little because it learned little: the next section holds that against it.",
                    forgetting_of_arms(results),
                    _spoken_arms(here),
                )
            )
    share = "stands beside them"
    if not _shares(families):
        share = "needs a cell that learned another corpus first, as of the other order"
    lead = (
        "Look for the slope on the left of the first figure: how much the first few per cent of old text save. "
        f"Nats alone mislead between orders, for one corpus has more to lose than another: the share of the gain that "
        f"was lost {share}. {about_intervals(run)}"
    )
    return Section("forgetting", "Forgetting", lead, parts=parts)


def _by_ratio(run: Run, baselines: list[str], families: list[Family], alone: bool) -> Picture:
    return Picture(
        "forgetting-by-ratio" + (f"-{baselines[0]}" if alone else ""),
        "Forgetting against interleaving ratio" + (f": {baselines[0]}" if alone else ""),
        "Loss on the earlier corpus at the end minus its loss when its own stage ended"
        + "; on the right as a share of what that stage had gained" * _shares(families)
        + ". Hollow points are seeds, full ones means with 95 % intervals"
        + "; the dotted line is the fitted decline" * any(decline(arms, earlier) for *_, earlier, arms in families)
        + ". The axis is in square roots, to part low ratios.",
        forgetting_by_ratio(run.results[run.results["baseline"].isin(baselines)]),
        "; ".join(_spoken(*family) for family in families),
    )


def forgetting_by_ratio(results: pd.DataFrame) -> go.Figure:
    """Forgetting against the interleaving ratio, a row per baseline and earlier corpus.

    In nats per token on the left, as per cent of the gain on the right, where that is known. Hollow points are seeds,
    full ones their means with intervals; colours are models and dashes interventions, or both interventions
    where there is one model. Dotted is `decline`, in nats.
    """
    families = _families(seed_groups(results))
    rows = unique((baseline, earlier) for baseline, _, _, earlier, _ in families)
    models = unique(family[1] for family in families)
    labels = unique(family[2] for family in families)
    columns = 1 + _shares(families)
    figure = panels(len(rows), columns, [t for b, x in rows for t in (f"{b}: {x}", "")[:columns]])
    for baseline, model, label, earlier, arms in families:
        row = rows.index((baseline, earlier)) + 1
        colours, several = [FAMILY, *COLOURS], len(models) > 1
        number_of = models.index(model) if several else labels.index(label)
        style = look(colours[number_of % len(colours)], labels.index(label) if several else number_of)
        name = " ".join([model] * (len(models) > 1) + [label] * (len(labels) > 1)) or label
        for column, (metric, scale) in enumerate(_scales(earlier)[:columns], 1):
            _ratio_panel(figure, row, column, name, arms, metric, scale, style)
        if law := decline(arms, earlier):
            x = np.linspace(0, _root(arms[-1].ratio), 60)
            dotted = {"mode": "lines", "line": {"color": style["line"]["color"], "dash": "dot"}, "hoverinfo": "skip"}
            draw(figure, row, 1, name, zip(x, law(x**2), strict=True), **dotted)
    for row in range(1, len(rows) + 1):
        for column, title in enumerate(("forgetting, nats", "gain lost, %")[:columns], 1):
            figure.update_yaxes(title=title, row=row, col=column)
    ratios = sorted({g.ratio for *_, arms in families for g in arms if g.ratio is not None})
    figure.update_xaxes(tickvals=list(map(_root, ratios)), ticktext=list(map(percent, ratios)))
    figure.update_xaxes(title="interleaving ratio", row=max(1, len(rows)))
    return styled(figure.update_yaxes(zeroline=True, rangemode="tozero"), PANEL_HEIGHT * max(1, len(rows)))


def forgetting_of_arms(results: pd.DataFrame) -> go.Figure:
    """Mean forgetting with its interval, in nats and as per cent of the gain: a row per arm, the least on top."""
    groups = seed_groups(results)
    blocks = [(b, m, x, here) for b, m, here in settings(groups) for x in forgotten(here)]
    sizes = [sum(bool(g.values(f"forgetting/{x}")) for g in here) for _, _, x, here in blocks]
    heights = [ROW * size + 30 for size in sizes]
    total = sum(heights) + 75 * len(blocks)
    figure = panels(
        len(blocks),
        2,
        [t for b, m, x, _ in blocks for t in (f"{b}, {m}: {x}", "")],
        row_heights=heights,
        shared_yaxes=True,
        vertical_spacing=75 / total if len(blocks) > 1 else 0,
        horizontal_spacing=0.05,
    )
    styles = looks(groups)
    for row, (_, _, earlier, here) in enumerate(blocks, 1):
        drawn = _ordered(here, earlier)
        for column, (metric, scale) in enumerate(_scales(earlier), 1):
            for group in drawn:
                _arm_point(figure, row, column, group, metric, scale, styles[group.name])
            rule(figure, row, column, x=0)
        names = [plain(g.name) for g in drawn]
        figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True, row=row)
        figure.update_yaxes(range=[-0.7, len(names) - 0.3], row=row)
    figure.update_xaxes(title="forgetting, nats", col=1, row=len(blocks))
    figure.update_xaxes(title="gain lost, %", col=2, row=len(blocks))
    return styled(figure, total).update_layout(showlegend=False, height=total + 60, margin_b=50)


def decline(arms: list[Group], earlier: str) -> PowerLaw | None:
    """The power law of forgetting against the ratio through all seeds of the arms; None for too few ratios."""
    points = [(g.ratio, value) for g in arms for value in g.values(f"forgetting/{earlier}")]
    ratios, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return fit_decline(ratios, values)


def _ratio_panel(
    figure: go.Figure, row: int, column: int, name: str, arms: list[Group], metric: str, scale: float, style: dict
) -> None:
    arms = [g for g in arms if g.values(metric)]
    means = [g.interval(metric) for g in arms]
    places = [_root(g.ratio) for g in arms]
    seeds = [(place, scale * v) for place, g in zip(places, arms, strict=True) for v in g.values(metric)]
    bars = errors([scale * m.half if m and m.half else None for m in means], style["line"]["color"])
    points = [(place, scale * m.mean) for place, m in zip(places, means, strict=True) if m]
    draw(figure, row, column, name, points, mode="lines+markers", error_y=bars, **style)
    small = {"color": style["line"]["color"], "symbol": "circle-open", "size": 9, "opacity": 0.6}
    draw(figure, row, column, name, seeds, mode="markers", marker=small)


def _arm_point(figure: go.Figure, row: int, column: int, group: Group, metric: str, scale: float, style: dict) -> None:
    if found := group.interval(metric):
        bars = errors([None if found.half is None else scale * found.half], style["line"]["color"])
        figure.add_scatter(
            x=[scale * found.mean],
            y=[plain(group.name)],
            name=plain(group.name),
            mode="markers",
            marker=style["marker"],
            error_x=bars,
            row=row,
            col=column,
        )


def _families(groups: list[Group]) -> list[Family]:
    """Baseline, model, name, earlier corpus and arms, by ratio, of every intervention at two ratios or more."""
    found: list[Family] = []
    for baseline, model, here in settings(groups):
        for earlier in forgotten(here):
            for label in unique(g.intervention for g in here):
                arms = [g for g in here if g.intervention == label and g.ratio is not None]
                arms = [g for g in arms if g.values(f"forgetting/{earlier}")]
                if len(arms) > 1:
                    name = "interleaving" if arms[0].kind == "none" else f"{label} + interleaving"
                    found.append((baseline, model, name, earlier, arms))
    return found


def _shares(families: list[Family]) -> bool:
    """Whether it is known of any arm what share of the gain was lost."""
    return any(g.values(f"fraction_lost/{earlier}") for *_, earlier, arms in families for g in arms)


def _declines(families: list[Family]) -> Table | None:
    """The fits of all families; None where there is none."""
    rows = []
    for baseline, model, name, earlier, arms in families:
        law = decline(arms, earlier)
        if law is None:
            continue
        error = law.exponent_error
        exponent = measured(law.exponent, 2)
        if error is not None:
            exponent = Value(exponent.text, law.exponent, 1.96 * error, f"±{number(1.96 * error, 2)}")
        remark = Value("the points do not tell the exponent" if error is None else "", faint=True)
        arm = [Value(baseline), text(model), text(name), text(earlier)]
        rows.append([*arm, exponent, measured(law.scale), measured(100 * law.shift, 2), measured(law.r2), remark])
    heads = [Column(head, numeric=False) for head in ("baseline", "model", "arms", "corpus")]
    heads += [Column("exponent", with_half=True), Column("at ratio 0, nats"), Column("shift, %"), Column("R²")]
    note = (
        "Forgetting = scale · (1 + ratio / shift)^−exponent, least squares through all seeds; ± is 1.96 standard "
        "errors. Where forgetting falls below 0 the law, which cannot, does not fit: see R²."
    )
    return Table("declines", "The fitted decline", note, [*heads, Column("", numeric=False)], rows) if rows else None


def _ordered(here: list[Group], earlier: str) -> list[Group]:
    known = [g for g in here if g.values(f"forgetting/{earlier}")]
    return sorted(known, key=lambda g: g.mean(f"forgetting/{earlier}"))


def _scales(earlier: str) -> list[tuple[str, float]]:
    return [(f"forgetting/{earlier}", 1), (f"fraction_lost/{earlier}", 100)]


def _root(ratio: float | None) -> float:
    return math.sqrt(ratio or 0)


def _spoken(baseline: str, model: str, name: str, earlier: str, arms: list[Group]) -> str:
    metric = f"forgetting/{earlier}"
    points = ", ".join(f"{percent(g.ratio)}: {with_interval(g.interval(metric))}" for g in arms)
    return f"{baseline}, {model}, {name}, forgetting of {earlier} in nats by ratio: {points}"


def _spoken_arms(here: list[Group]) -> str:
    return "; ".join(
        f"{here[0].baseline}, {here[0].model}, forgetting of {x} in nats, the least first: "
        + ", ".join(f"{g.name} {with_interval(g.interval(f'forgetting/{x}'))}" for g in _ordered(here, x))
        for x in forgotten(here)
    )
