"""How figures look: colours that stand out on white and on black, and never the colour alone."""

import html
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from grid.report.groups import Group, unique

# Each stands out by 3.5 : 1 or more from a white page and from a dark one.
FAMILY, NEUTRAL = "#2b7cc9", "#7d7f83"
COLOURS = ["#c8502d", "#2a9461", "#9a62c9", "#b07c10", "#d1478c", "#1490a3"]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]
SYMBOLS = ["circle", "square", "diamond", "cross", "x", "triangle-up", "star", "triangle-down", "pentagon", "hexagram"]
PANEL_HEIGHT = 270  # pixels
BAND = 0.15  # opacity
# Control characters, marks that reverse the text around them, and halves of UTF-16 pairs.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Look = dict[str, Any]


def visible(value: Any) -> Any:
    """Text that shows itself: what would act on its surroundings unseen is written out."""
    return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", value) if type(value) is str else value


def plain(text: str) -> str:
    """Text for plotly, which would read tags in it."""
    return html.escape(visible(text), quote=False)


def looks(groups: list[Group]) -> dict[str, Look]:
    """A look for each arm's name: one colour for the interleaving family, and others for the rest."""
    family = unique(g.name for g in groups if g.is_interleaving)
    others = unique(g.name for g in groups if not g.is_interleaving and g.intervention is not None)
    found = {name: look(NEUTRAL, i) for i, name in enumerate(g.name for g in groups if g.intervention is None)}
    found |= {name: look(FAMILY, i) for i, name in enumerate(family)}
    return found | {name: look(COLOURS[i % len(COLOURS)], i // len(COLOURS)) for i, name in enumerate(others)}


def look(colour: str, style: int) -> Look:
    """Options of a trace: a colour, and the dash and symbol of this number."""
    return {
        "line": {"color": colour, "dash": DASHES[style % len(DASHES)], "width": 2},
        "marker": {"color": colour, "symbol": SYMBOLS[style % len(SYMBOLS)], "size": 8},
    }


def panels(rows: int, columns: int, titles: list[str], height: int = PANEL_HEIGHT, **options: Any) -> go.Figure:
    """A grid of panels, each title at the left of its panel."""
    rows, columns = max(1, rows), max(1, columns)
    gaps = {"vertical_spacing": 80 / (height * rows) if rows > 1 else 0, "horizontal_spacing": 0.16 / columns + 0.03}
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=[plain(t) for t in titles], **gaps | options)
    titled = [axis for axis, title in zip(figure.select_xaxes(), titles, strict=False) if title]
    for title, axis in zip(figure.layout.annotations, titled, strict=True):
        title.update(x=axis.domain[0], xanchor="left", font_size=13)
    return figure


def draw(figure: go.Figure, row: int, column: int, name: str, points: Iterable[Any], **options: Any) -> None:
    """Add a trace through the (x, y) of `points`, parted where y is nan."""
    points = list(points)
    if any(y == y for _, y in points):
        xs, ys = zip(*points, strict=True)
        figure.add_scatter(x=list(xs), y=np.array(ys, np.float32), name=plain(name), row=row, col=column, **options)


def draw_band(figure: go.Figure, row: int, column: int, name: str, band: np.ndarray, **options: Any) -> None:
    """Fill between the lows and the highs of `band`, float64 [n, 3] of x, low, high."""
    band = band[np.isfinite(band).all(axis=1)]
    if len(band) > 1:
        around = np.concatenate([band[:, [0, 1]], band[::-1][:, [0, 2]]])
        colour = options.pop("line")["color"]
        options |= {"mode": "lines", "line_width": 0, "fill": "toself", "fillcolor": _faded(colour)}
        draw(figure, row, column, name, around, hoverinfo="skip", **options | {"marker": None})


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND})"


def errors(halves: Iterable[float | None], colour: str) -> dict[str, Any]:
    """Bars of these half widths; none where there is no interval."""
    array = [0.0 if half is None else half for half in halves]
    return {"type": "data", "array": array, "color": colour, "thickness": 1.3, "width": 3, "visible": any(array)}


def rule(figure: go.Figure, row: int, column: int, **at: float) -> None:
    """A dashed line over the panel, at x or at y."""
    line = {"line_color": NEUTRAL, "line_width": 1, "line_dash": "dash", "row": row, "col": column}
    if "x" in at:
        figure.add_vline(at["x"], **line)
    else:
        figure.add_hline(at["y"], **line)


def styled(figure: go.Figure, height: float, hidden: Iterable[str] = ()) -> go.Figure:
    """Each name once in the legend, where it switches its traces in all panels; those `hidden` wait there."""
    seen, waiting = set[str](), {plain(name) for name in hidden}
    for trace in figure.data:
        first = bool(trace.name) and trace.name not in seen and trace.type == "scatter" and trace.fill is None
        trace.update(showlegend=first)
        if trace.type == "scatter":
            trace.update(legendgroup=trace.name, visible="legendonly" if trace.name in waiting else True)
        if first:
            seen.add(trace.name)
    inches = height + 90 + 20 * math.ceil(len(seen - waiting) / 4)
    figure.update_xaxes(ticklabelstandoff=3, hoverformat=".3~f").update_yaxes(ticklabelstandoff=5, hoverformat=".3~f")
    return figure.update_layout(
        template="none",
        font_size=12,
        height=inches,
        margin={"l": 60, "r": 15, "t": 30, "b": 60},
        showlegend=len(seen) > 1,
        legend={"orientation": "h", "y": -60 / height, "yanchor": "top", "x": 0},
        hovermode="closest",
        hoverlabel_namelength=-1,
    )


def spread(rows: Sequence[Any], columns: Sequence[Any]) -> Iterable[tuple[tuple[int, Any], tuple[int, Any]]]:
    """Row and column numbers of panels with what they show."""
    return itertools.product(enumerate(rows, 1), enumerate(columns, 1))
