"""Likeness of the layers to those of the model of A over time: small maps, layers against tokens."""

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from grid.report.groups import Group, few, seed_groups, settings
from grid.report.style import panels

HEIGHT, MOST_WRITTEN = 180, 12  # pixels; layers whose values are written into the map
TICKS = 8  # at most, so that they do not touch
LAYER = re.compile(r"(cka_self|cka/.+)/(\d+)")


def cka_maps(results: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """CKA to the model of A, layers against tokens since the switch, mean over seeds, on one scale.

    A row per baseline, model and arm (plain training, the highest ratio, and the leading ones), a column per text.
    """
    rows = [(b, m, g) for b, m, here in settings(seed_groups(results)) for g in few(here)]
    tables = [(b, m, g, _layers(g, curves)) for b, m, g in rows]
    found = [(b, m, g, table) for b, m, g, table in tables if not table.empty]
    titles = [f"{b}, {g.name}: {_words(name)}" for b, _, g, table in found for name in _texts(table)]
    figure = panels(len(found), 2, titles, height=HEIGHT, horizontal_spacing=0.1)
    lowest = min((table["value"].min() for *_, table in found), default=0)
    for row, (_, _, _, table) in enumerate(found, 1):
        for column, name in enumerate(_texts(table), 1):
            grid = table[table["text"] == name].pivot_table(index="layer", columns="since", values="value")
            figure.add_heatmap(
                z=grid.to_numpy().round(3).tolist(),
                x=list(range(grid.shape[1])),
                y=[str(layer) for layer in grid.index],
                coloraxis="coloraxis",
                xgap=1,
                ygap=1,
                texttemplate="%{z:.2f}" if len(grid) <= MOST_WRITTEN else None,
                textfont_size=10,
                text=[[f"{since:,} tokens" for since in grid.columns]] * len(grid),
                hovertemplate="layer %{y}, %{text}: %{z:.3f}<extra></extra>",
                row=row,
                col=column,
            )
            marks = list(enumerate(grid.columns))[:: -(-grid.shape[1] // TICKS)]
            ticks = {"tickvals": [i for i, _ in marks], "ticktext": [_short(since) for _, since in marks]}
            figure.update_xaxes(**ticks, row=row, col=column)
        figure.update_yaxes(title="layer", row=row, col=1)
    figure.update_xaxes(showgrid=False, zeroline=False).update_yaxes(type="category", showgrid=False)
    figure.update_xaxes(title="tokens since the switch", row=max(1, len(found)))
    height = HEIGHT * max(1, len(found)) + 130
    bar = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1 + 45 / (height - 130), "thickness": 10, "len": 0.5}
    return figure.update_layout(
        template="none",
        font_size=12,
        height=height,
        margin={"l": 60, "r": 15, "t": 80, "b": 50},
        coloraxis={"colorscale": "Cividis", "cmin": float(np.floor(lowest * 10) / 10), "cmax": 1, "colorbar": bar},
    )


def _layers(group: Group, curves: pd.DataFrame) -> pd.DataFrame:
    """Mean CKA over the seeds of an arm: text, layer, since, value, of its last stage."""
    own = curves[curves["cell"].isin(group.finished["cell"])]
    parsed = own["name"].str.extract(rf"^{LAYER.pattern}$")
    own = own.assign(text=parsed[0], layer=parsed[1]).dropna(subset="layer")
    if own.empty:
        return own.assign(since=0)
    own = own[own["stage"] == own["stage"].max()]
    own = own.assign(layer=own["layer"].astype(int), since=own["tokens"] - own["tokens"].min())
    return own.groupby(["text", "layer", "since"])["value"].mean().reset_index()


def _texts(table: pd.DataFrame) -> list[str]:
    """The text sampled from the model of A, and the held-out one."""
    return sorted(table["text"].unique(), key=lambda name: name != "cka_self")


def _words(name: str) -> str:
    return "on sampled text" if name == "cka_self" else f"on held-out {name.split('/', 1)[1]}"


def _short(tokens: int) -> str:
    """`0`, `512`, `16k`, `2.1M`."""
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if tokens >= size:
            return f"{tokens / size:.2g}{unit}" if tokens < 10 * size else f"{tokens / size:.0f}{unit}"
    return str(tokens)
