"""The report of a grid: one HTML page that needs no network, drawn from plan.json, results.parquet and curves.parquet.

The figures are plain functions of the tables, for a notebook too:

    results = pandas.read_parquet("runs/NAME/results.parquet")
    forgetting_by_ratio(results).show()
"""

import html
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from lethe.config import UserError
from lethe.evaluation.intervals import mean_interval
from lethe.files import whole

AXES = ["baseline", "model", "interleaving_ratio", "intervention"]
# Each stands out by 3.5 : 1 or more from a white page and from a dark one.
COLOURS = ["#c8502d", "#2b7cc9", "#2a9461", "#9a62c9", "#b07c10", "#d1478c", "#1490a3"]
NEUTRAL = "#7d7f83"
PANEL_HEIGHT = 270  # pixels
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]
SYMBOLS = ["circle", "square", "diamond", "cross", "x", "triangle-up", "star"]
# Control characters, marks that reverse the text around them, and halves of UTF-16 pairs.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Group(NamedTuple):
    """The cells that differ only in their seed; `combined` has neither ratio nor intervention."""

    baseline: str
    model: str
    ratio: float | None
    intervention: str | None
    cells: pd.DataFrame
    finished: pd.DataFrame

    def column(self, metric: str) -> np.ndarray:
        """The metric of each finished cell, float64 [finished], nan where it is undefined."""
        if metric not in self.cells:
            return np.full(len(self.finished), np.nan)
        column = pd.to_numeric(self.finished[metric]).to_numpy(np.float64, na_value=np.nan)
        return np.where(np.isfinite(column), column, np.nan)

    def values(self, metric: str) -> np.ndarray:
        """As `column`, without the undefined ones."""
        column = self.column(metric)
        return column[~np.isnan(column)]

    def mean(self, metric: str) -> float:
        """Mean over the seeds; nan where the metric is undefined for all of them."""
        values = self.values(metric)
        return float(values.mean()) if values.size else math.nan


def seed_groups(results: pd.DataFrame) -> list[Group]:
    """The cells grouped by all but the seed; names in the order of the table, ratios ascending."""
    results = results.dropna(subset=["baseline", "model"])
    groups = []
    for (baseline, model, *rest), cells in results.groupby(AXES, dropna=False, sort=False):
        ratio, intervention = (None if pd.isna(part) else part for part in rest)
        groups.append(Group(baseline, model, ratio, intervention, cells, cells[cells["status"] == "finished"]))
    baselines, models = list(results["baseline"].unique()), list(results["model"].unique())
    return sorted(
        groups,
        key=lambda g: (baselines.index(g.baseline), models.index(g.model), -1 if g.ratio is None else g.ratio),
    )


def half_width(values: np.ndarray) -> float | None:
    """Half the width of the 95 % interval of the mean of `values`; None below two of them."""
    interval = mean_interval(values)
    return interval.half if interval else None


def forgetting_by_ratio(results: pd.DataFrame) -> go.Figure:
    """Forgetting against the interleaving ratio, a row per baseline and earlier corpus.

    In nats per token on the left, as per cent of the gain on the right: nats alone mislead between orders. Points are
    seeds, the line is their mean; colours are models, or interventions where there is only one model.
    """
    groups = seed_groups(results)
    panels = _unique((g.baseline, x) for g in groups for x in _corpora(results) if g.values(f"forgetting/{x}").size)
    figure = _panels(len(panels), 2, [title for baseline, x in panels for title in (f"{baseline}: {x}", "")])
    models, interventions = _unique(g.model for g in groups), _interventions(groups)
    for row, (baseline, x) in enumerate(panels, 1):
        for (m, model), (i, intervention) in itertools.product(enumerate(models), enumerate(interventions)):
            series = [g for g in groups if (g.baseline, g.model, g.intervention) == (baseline, model, intervention)]
            look = _look(m if len(models) > 1 else i, i)
            name = model if len(interventions) == 1 else f"{model}, {intervention}"
            for column, (metric, scale) in enumerate(((f"forgetting/{x}", 1), (f"fraction_lost/{x}", 100)), 1):
                seeds = [(_percent(g.ratio), scale * value) for g in series for value in g.values(metric)]
                means = [(_percent(g.ratio), scale * g.mean(metric)) for g in series]
                _draw(figure, row, column, name, means, mode="lines+markers", **look)
                _draw(figure, row, column, name, seeds, mode="markers", opacity=0.5, **look)
        figure.update_yaxes(title="forgetting, nats", row=row, col=1)
        figure.update_yaxes(title="gain lost, %", row=row, col=2)
    percents = [_percent(ratio) for ratio in _ratios(groups)]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=percents)
    figure.update_xaxes(title="interleaving ratio", row=max(1, len(panels)))
    return _styled(figure.update_yaxes(zeroline=True, rangemode="tozero"), len(panels))


def loss_curves(results: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """Loss of each corpus against tokens over the whole sequence: a row per model and baseline, a column per corpus.

    A thick line is the mean over finished seeds, thin ones are single cells; a dashed vertical line is the switch
    between two stages, a dotted horizontal one the mean loss that `combined` ends at.
    """
    groups, corpora = seed_groups(results), _corpora(results)
    curves = curves.sort_values(["stage", "tokens"], kind="stable")
    lines = dict(iter(curves.groupby(["cell", "name"])[["stage", "tokens", "value"]]))
    rows = _unique((g.model, g.baseline) for g in groups if set(g.cells["cell"]) & {cell for cell, _ in lines})
    titles = [f"{baseline}, {model}" if i == 0 else "" for model, baseline in rows for i in range(len(corpora))]
    figure = _panels(len(rows), len(corpora), titles, shared_yaxes="columns")
    for (row, (model, baseline)), (column, x) in itertools.product(enumerate(rows, 1), enumerate(corpora, 1)):
        drawn: list[pd.DataFrame] = []
        for group in (g for g in groups if (g.model, g.baseline) == (model, baseline)):
            name, look = _ratio_look(group, groups)
            seeds = {cell: lines[cell, f"loss/{x}"] for cell in group.cells["cell"] if (cell, f"loss/{x}") in lines}
            mean = _mean_curve([seeds[cell] for cell in group.finished["cell"] if cell in seeds])
            _draw(figure, row, column, name, mean, mode="lines", line_width=2.5, **look)
            each = [seed[["tokens", "value"]].itertuples(index=False) for seed in seeds.values()]
            parted = [point for points in each for point in (*points, (0, math.nan))]
            thin = {"mode": "lines", "line_width": 1, "opacity": 0.35, "hoverinfo": "skip"}
            _draw(figure, row, column, name, parted, **thin, **look)
            drawn += seeds.values()
        for switch in sorted({end for seed in drawn for end in seed.groupby("stage")["tokens"].max().iloc[:-1]}):
            figure.add_vline(switch, row=row, col=column, line_color=NEUTRAL, line_width=1, line_dash="dash")
        figure.update_yaxes(title=_plain(f"{x}, nats"), row=row, col=column)
        combined = [g.mean(f"final_loss/{x}") for g in groups if (g.model, g.baseline) == (model, "combined")]
        if drawn and combined and baseline != "combined":
            level = [(0, combined[0]), (max(seed["tokens"].max() for seed in drawn), combined[0])]
            dotted = {"mode": "lines", "line_color": NEUTRAL, "line_dash": "dot"}
            _draw(figure, row, column, "combined, at its end", level, **dotted)
    figure.update_xaxes(title="tokens over the sequence", row=max(1, len(rows)))
    return _styled(figure, len(rows))


def learning_against_forgetting(results: pd.DataFrame) -> go.Figure:
    """Final loss on a corpus learned last against forgetting of an earlier one, a point per cell; low on both is good.

    A panel per model, baseline and pair of corpora; a grey line joins the means of one intervention over the ratios.
    """
    groups = seed_groups(results)
    panels: dict[tuple[str, str, str, str], list[Group]] = {}
    for group in groups:
        earlier = [x for x in _corpora(results) if group.values(f"forgetting/{x}").size]
        later = [x for x in _corpora(results) if group.values(f"learned_loss/{x}").size and x not in earlier]
        for x, y in itertools.product(earlier, later):
            panels.setdefault((group.model, group.baseline, x, y), []).append(group)
    columns = min(2, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = _panels(rows, columns, [f"{baseline}, {model}" for model, baseline, *_ in panels])
    for i, ((_, _, x, y), here) in enumerate(panels.items()):
        row, column, metrics = i // columns + 1, i % columns + 1, (f"forgetting/{x}", f"final_loss/{y}")
        for intervention in _unique(g.intervention for g in here):
            means = [[g.mean(metric) for metric in metrics] for g in here if g.intervention == intervention]
            grey = {"mode": "lines", "line_color": NEUTRAL, "line_width": 1, "hoverinfo": "skip"}
            _draw(figure, row, column, "", means, **grey)
        for group in here:
            name, look = _ratio_look(group, groups)
            points = np.column_stack([group.column(metric) for metric in metrics])
            _draw(figure, row, column, name, points, mode="markers", marker_size=8, **look)
        figure.update_xaxes(title=_plain(f"forgetting of {x}, nats"), hoverformat=".3f", row=row, col=column)
        figure.update_yaxes(title=_plain(f"final loss on {y}"), row=row, col=column)
    return _styled(figure, rows)


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:g} %"


def _corpora(results: pd.DataFrame) -> list[str]:
    return [column.removeprefix("final_loss/") for column in results if column.startswith("final_loss/")]


def _ratios(groups: list[Group]) -> list[float]:
    return sorted({g.ratio for g in groups if g.ratio is not None})


def _interventions(groups: list[Group]) -> list[str]:
    return _unique(g.intervention for g in groups if g.intervention)


def _unique(names: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(names))


def _visible(value: Any) -> Any:
    """Text that shows itself: what would act on its surroundings unseen is written out."""
    return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", value) if type(value) is str else value


def _plain(text: str) -> str:
    """Text for plotly, which would read tags in it."""
    return html.escape(_visible(text), quote=False)


def _look(colour: int, style: int) -> dict[str, Any]:
    """Options of a trace: the colour, and the dash and symbol, of these numbers."""
    color = COLOURS[colour % len(COLOURS)]
    line = {"line_color": color, "line_dash": DASHES[style % len(DASHES)]}
    return line | {"marker_color": color, "marker_symbol": SYMBOLS[style % len(SYMBOLS)]}


def _ratio_look(group: Group, groups: list[Group]) -> tuple[str, dict[str, Any]]:
    """Name and look of a group among `groups`: a colour per ratio, a dash and a symbol per intervention."""
    ratios, interventions = _ratios(groups), _interventions(groups)
    name = group.baseline if group.ratio is None else f"ratio {_percent(group.ratio)}"
    if group.intervention and len(interventions) > 1:
        name += f", {group.intervention}"
    style = interventions.index(group.intervention) if group.intervention else 0
    if group.ratio is None:
        return name, _look(0, style) | {"line_color": NEUTRAL, "marker_color": NEUTRAL}
    return name, _look(ratios.index(group.ratio), style)


def _mean_curve(seeds: list[pd.DataFrame]) -> Iterable[tuple[int, float]]:
    """Tokens and mean over the seeds of each mark that all of them have."""
    if not seeds:
        return []
    marks = pd.concat(seeds).groupby(["stage", "tokens"])["value"].agg(["mean", "count"]).reset_index()
    return marks.loc[marks["count"] == len(seeds), ["tokens", "mean"]].itertuples(index=False)


def _panels(rows: int, columns: int, titles: list[str], **options: Any) -> go.Figure:
    rows, columns = max(1, rows), max(1, columns)
    gaps = {"vertical_spacing": 85 / (PANEL_HEIGHT * rows), "horizontal_spacing": 0.14}
    shown = [_plain(title) for title in titles]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=shown, **gaps, **options)
    titled = [axis for axis, title in zip(figure.select_xaxes(), titles, strict=False) if title]
    for title, axis in zip(figure.layout.annotations, titled, strict=True):
        title.update(x=axis.domain[0], xanchor="left", font_size=13)
    return figure


def _draw(figure: go.Figure, row: int, column: int, name: str, points: Iterable[Any], **look: Any) -> None:
    """Add a trace through the (x, y) of `points`, parted where y is nan."""
    points = list(points)
    if any(y == y for _, y in points):
        xs, ys = zip(*points, strict=True)
        figure.add_scatter(x=np.array(xs), y=np.array(ys, np.float32), name=_plain(name), row=row, col=column, **look)


def _styled(figure: go.Figure, rows: int) -> go.Figure:
    """Each name once in the legend, where it switches its traces in all panels."""
    names: set[str] = set()
    for trace in figure.data:
        trace.update(legendgroup=trace.name, showlegend=bool(trace.name) and trace.name not in names)
        names.add(trace.name)
    height = PANEL_HEIGHT * max(1, rows)
    figure.update_xaxes(ticklabelstandoff=3).update_yaxes(ticklabelstandoff=5, hoverformat=".3f")
    return figure.update_layout(
        template="none",
        font_size=12,
        height=height + 90 + 20 * math.ceil(len(names) / 4),
        margin={"l": 60, "r": 15, "t": 30, "b": 60},
        showlegend=len(names - {""}) > 1,
        legend={"orientation": "h", "y": -60 / height, "yanchor": "top", "x": 0},
        hovermode="closest",
        hoverlabel_namelength=-1,
    )


class Column(NamedTuple):
    """A column of numbers in the tables."""

    head: str
    name: str
    metric: str
    percent: bool = False

    def text(self, value: float) -> str:
        return _number(100 * value, 1) if self.percent else _number(value, 3)


def _columns(groups: list[Group], corpora: list[str]) -> list[Column]:
    columns = [Column("final loss, nats", x, f"final_loss/{x}") for x in corpora]
    for x in corpora:
        columns.append(Column(f"forgetting of {x}", "nats", f"forgetting/{x}"))
        columns.append(Column(f"forgetting of {x}", "% of gain", f"fraction_lost/{x}", percent=True))
    columns += [Column("gap to combined, nats", x, f"gap_to_combined/{x}") for x in corpora]
    columns.append(Column("average loss", "nats", "average_loss"))
    return [column for column in columns if any(group.values(column.metric).size for group in groups)]


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _forgotten(groups: list[Group], corpora: list[str]) -> list[tuple[str, list[Group]]]:
    """Each earlier corpus of a baseline and model, with the lowest and the highest ratio of each intervention."""
    forgotten = []
    for key, x in itertools.product(_unique((g.baseline, g.model) for g in groups), corpora):
        here = [g for g in groups if (g.baseline, g.model) == key and g.values(f"forgetting/{x}").size]
        families = [[g for g in here if g.intervention == i] for i in _unique(g.intervention for g in here)]
        if here:
            forgotten.append((x, [g for family in families for g in family[:1] + family[1:][-1:]]))
    return forgotten


def _read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Plan, results and curves; the results in the plan's order, with a row for each cell that has none yet."""
    read = {"plan.json": lambda path: json.loads(path.read_bytes())}
    read |= {"results.parquet": pd.read_parquet, "curves.parquet": pd.read_parquet}
    found: list[Any] = []
    for name, function in read.items():
        try:
            found.append(function(folder / name))
        except (OSError, ValueError) as error:
            allowed = "allowed: the file that running a grid leaves there"
            raise UserError(f"{folder / name}: cannot be read ({error}); {allowed}") from None
    plan, results, curves = found
    planned = pd.DataFrame(plan["cell_list"], columns=["cell", *AXES, "seed"]).set_index("cell")
    results, columns = results.set_index("cell"), results.columns.drop("cell")
    cells = _unique([*planned.index, *results.index])
    results = results.combine_first(planned).reindex(index=cells, columns=columns).reset_index()
    return plan, results.assign(status=results["status"].fillna("no result yet")), curves


def _page(plan: dict[str, Any], results: pd.DataFrame, curves: pd.DataFrame) -> str:
    groups = seed_groups(results)
    corpora = _unique([*plan["corpora"], *_corpora(results)])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["percent"] = _percent
    figures = [forgetting_by_ratio(results), loss_curves(results, curves), learning_against_forgetting(results)]
    columns = _columns(groups, corpora)
    children: dict[str | None, list[dict[str, Any]]] = {}
    for stage in plan["stage_list"]:
        children.setdefault(stage["parent"], []).append(stage)
    cells = results.astype(object).where(results.notna(), None)
    return environment.get_template("report.html.j2").render(
        plan=plan,
        configuration=json.dumps(plan.get("config"), indent=2, ensure_ascii=False),
        cells=cells.to_dict("records"),
        missing=cells[cells["status"] != "finished"].to_dict("records"),
        statuses=Counter(cells["status"]),
        axes={axis: _unique(cells[axis].dropna()) for axis in (*AXES, "seed")},
        groups=groups,
        columns=columns,
        heads=Counter(column.head for column in columns),
        forgotten=_forgotten(groups, corpora),
        figures=[json.loads(figure.to_json()) for figure in figures],
        children=children,
        half_width=half_width,
        number=_number,
        plotly_js=Markup(get_plotlyjs()),  # noqa: S704 - the library itself; all else on the page is escaped
    )


def write_report(folder: Path) -> Path:
    """Write `folder/report.html` from `folder`'s plan.json, results.parquet and curves.parquet; returns its path.

    The same inputs give the same bytes. Cells that are not finished are named and left out of every mean. Raises
    UserError when one of the three cannot be read.
    """
    page = _page(*_read(folder)).encode()
    path = folder / "report.html"
    with whole(path) as temporary:
        temporary.write_bytes(page)
    return path
