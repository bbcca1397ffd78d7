"""What watches a later stage without text of the earlier corpora, against tokens and against forgetting."""

from collections.abc import Iterable, Iterator

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
    each_setting,
    measured,
    number,
    text,
    trimmed,
)
from grid.report.geometry import cka_maps
from grid.report.groups import Group, forgotten, seed_groups, unique, waiting
from grid.report.style import PANEL_HEIGHT, draw, looks, panels, plain, styled

GAUGES = ("kl_self", "kl/", "weight_distance")
RESAMPLES, FEWEST_ARMS = 1000, 3
WORDS = {
    "kl_self": "KL from the model of A on text sampled from it, nats per token",
    "weight_distance": "distance of the weights from the model of A, relative",
}


def section(run: Run) -> Section | None:
    """None where nothing was monitored."""
    found = marks(run.results, run.curves)
    if found.empty:
        return None
    parts: list[Picture | Table] = []
    for key, title, results, _ in each_setting(run):
        figure, maps = monitor_curves(results, run.curves), cka_maps(results, run.curves)
        if figure.data:
            note = (
                "Left: against tokens since the switch. Right: against forgetting at the same mark, means over the "
                "seeds of an arm; a line joins an arm's marks in time. A gauge that is good everywhere puts all arms "
                "on one rising curve."
            )
            spoken = "the correlations stand in the table of monitors"
            name = f"Monitors along the later stage{title}"
            parts.append(Picture(f"monitors{key}", name, note, figure, spoken, choose=True))
        if maps.data:
            note = (
                "Linear CKA to the model of A after each block, from 1 (the same geometry) down: layers against "
                "tokens since the switch, means over seeds. Shown are plain training, the highest interleaving ratio "
                "and arms on the front."
            )
            name = f"Geometry: likeness to the model of A, layer by layer{title}"
            parts.append(Picture(f"cka{key}", name, note, maps, _spoken_maps(maps)))
    parts.append(_correlations(found))
    lead = (
        "A monitor needs no text of the earlier corpus: does it tell how much is being lost? Look whether arms that "
        "read alike on the left of a row forget alike."
    )
    return Section("monitors", "Monitors", lead, parts=parts)


def marks(results: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """A row per gauge, cell and mark of a later stage: baseline, model, arm, seed, tokens, gauge, value, forgetting.

    `tokens` count from the switch; `forgetting` is the mean rise, since then, of the loss on the corpora learned
    before; `arm` is the name of the group.
    """
    names = curves["name"]
    wanted = curves[names.isin(["kl_self", "weight_distance"]) | names.str.match(r"kl/|loss/")]
    rows = []
    for group, seed, _, wide in monitored(results, wanted):
        here = wide.iloc[1:].reset_index()  # a stage's first mark tells nothing
        gauges = [name for name in wide if name.startswith(GAUGES)]
        here = here.melt(["tokens", "forgetting"], gauges, var_name="gauge")
        rows.append(here.assign(baseline=group.baseline, model=group.model, arm=group.name, seed=seed))
    columns = ["baseline", "model", "arm", "seed", "tokens", "gauge", "value", "forgetting"]
    return pd.concat(rows)[columns].reset_index(drop=True) if rows else pd.DataFrame(columns=columns)


def monitored(results: pd.DataFrame, curves: pd.DataFrame) -> Iterator[tuple[Group, int, int, pd.DataFrame]]:
    """Arm, seed and number of each later stage of a finished cell that was monitored, and a row per mark of it.

    By tokens since the switch: every curve, how far the loss on each corpus X has risen since then (`rise/X`), and
    `forgetting`, the mean rise over the corpora learned before.
    """
    cells = dict(iter(curves.groupby("cell", sort=False)))
    for group in seed_groups(results):
        earlier = forgotten([group])
        for cell, seed in zip(group.finished["cell"], group.finished["seed"], strict=True):
            own = dict(iter(cells[cell].groupby("stage"))) if cell in cells else {}
            for stage, table in own.items():
                if stage - 1 in own and (table["name"] == "kl_self").any():
                    wide = _of_stage(table, own[stage - 1], earlier)
                    if "forgetting" in wide:
                        yield group, seed, stage, wide


def monitor_curves(results: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """Each gauge against tokens and against forgetting, a row per baseline, model and gauge; means over seeds."""
    found, groups = marks(results, curves), seed_groups(results)
    rows = unique(zip(found["baseline"], found["model"], found["gauge"], strict=True))
    figure = panels(len(rows), 2, [t for b, m, gauge in rows for t in (f"{b}, {m}: {gauge}", "")], shared_yaxes="rows")
    styles = looks(groups)
    means = found.groupby(["baseline", "model", "gauge", "arm", "tokens"], sort=False)[["value", "forgetting"]].mean()
    for (*key, arm), points in means.reset_index().groupby(["baseline", "model", "gauge", "arm"], sort=False):
        row = rows.index(tuple(key)) + 1
        style = styles[arm] | {"marker": styles[arm]["marker"] | {"size": 5}}
        points = points.sort_values("tokens")
        for column, x in enumerate(("tokens", "forgetting"), 1):
            drawn = zip(points[x].tolist(), points["value"].tolist(), strict=True)
            draw(figure, row, column, arm, drawn, mode="lines+markers", **style)
        figure.update_yaxes(title=plain(key[2]), rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title="tokens since the switch", row=max(1, len(rows)), col=1)
    figure.update_xaxes(title="forgetting, nats", row=max(1, len(rows)), col=2)
    return styled(figure, PANEL_HEIGHT * max(1, len(rows)), waiting(groups))


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Correlation of the ranks of x and y, float64 [n], ties sharing their mean rank; nan where one is constant.

    `counts`, float64 [draws, n], says how often each draw has each point (once without it): float64 [draws].
    """
    counts = np.ones((1, len(x))) if counts is None else counts
    deviations = []
    for values in (x, y):
        ranks = _ranks(values, counts)
        deviations.append(ranks - (counts * ranks).sum(1, keepdims=True) / counts.sum(1, keepdims=True))
    one, other = deviations
    size = np.sqrt((counts * one**2).sum(1) * (counts * other**2).sum(1))
    product = (counts * one * other).sum(1)
    return np.divide(product, size, out=np.full(len(counts), np.nan), where=size > 0)


def interval_over_arms(arms: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of `spearman` when whole arms, with all their cells, are drawn with replacement (Efron 1979).

    Always of the same draws; None below three arms.
    """
    names, arm = np.unique(arms, return_inverse=True)
    if len(names) < FEWEST_ARMS:
        return None
    counts = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    drawn = spearman(x, y, counts[:, arm].astype(np.float64))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _ranks(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rank of each of x (float64 [n]) among as many of each as counted: float64 [draws, n]."""
    _, group = np.unique(x, return_inverse=True)
    sizes = np.zeros((len(counts), group.max() + 1))
    for i, count in zip(group, counts.T, strict=True):
        sizes[:, i] += count
    return (sizes.cumsum(1) - (sizes - 1) / 2)[:, group]


def _of_stage(table: pd.DataFrame, before: pd.DataFrame, earlier: Iterable[str]) -> pd.DataFrame:
    """As `monitored` gives it; without `forgetting` where nothing was learned before."""
    wide = table.pivot_table(index="tokens", columns="name", values="value").dropna(subset="kl_self")
    wide.index -= wide.index.min()
    last = before.sort_values("tokens").groupby("name")["value"].last()
    losses = [name for name in wide if name.startswith("loss/")]
    wide = wide.assign(**{name.replace("loss/", "rise/"): wide[name] - last[name] for name in losses})
    lost = [f"rise/{x}" for x in earlier if f"kl/{x}" not in wide]
    return wide.assign(forgetting=wide[lost].mean(axis=1)) if lost else wide


def _correlations(found: pd.DataFrame) -> Table:
    rows = []
    for (baseline, model, gauge), points in found.groupby(["baseline", "model", "gauge"], sort=False):
        ends = points.loc[points.groupby(["arm", "seed"])["tokens"].idxmax()]
        row = [Value(gauge, note=WORDS.get(gauge, f"KL from the model of A on held-out {gauge[3:]}, nats per token"))]
        row += [text(f"{baseline}, {model}")]
        for here in (points, ends):
            arms, x, y = (here[name].to_numpy() for name in ("arm", "value", "forgetting"))
            x, y = x.astype(float), y.astype(float)
            row.append(_correlation(float(spearman(x, y)[0]), interval_over_arms(arms, x, y)))
        counts = points["arm"].nunique(), points[["arm", "seed"]].drop_duplicates().shape[0], len(points)
        rows.append([*row, *(Value(f"{count:,}", count) for count in counts)])
    heads = [Column("monitor", numeric=False), Column("order, model", numeric=False)]
    heads += [Column("Spearman, all marks"), Column("Spearman, ends of cells")]
    heads += [Column("arms"), Column("cells"), Column("marks")]
    note = (
        "Rank correlation with forgetting: over all marks of all cells but a stage's first, and over the ends of "
        "cells alone, which says whether it ranks methods. In brackets the 95 % interval when whole arms are drawn "
        f"with replacement; below {FEWEST_ARMS} arms there is none. A method that trains on sampled text lowers the "
        "KL on such text more than it lowers forgetting."
    )
    return trimmed(Table("correlations", "How well each monitor tells of forgetting", note, heads, rows))


def _correlation(value: float, interval: tuple[float, float] | None) -> Value:
    shown = measured(value, 2)
    if interval is None:
        return Value(shown.text, shown.number, half_text="no interval")
    return Value(shown.text, shown.number, half_text=f"[{number(interval[0], 2)}, {number(interval[1], 2)}]")


def _spoken_maps(figure: go.Figure) -> str:
    titles = [annotation.text for annotation in figure.layout.annotations]
    ends = [np.asarray(trace.z, float)[:, -1] for trace in figure.data]
    return "; ".join(
        f"{title}: at the end {', '.join(f'{value:.2f}' for value in end)} from the first layer to the last"
        for title, end in zip(titles, ends, strict=False)
    )
