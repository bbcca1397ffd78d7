"""What a page is made of: sections of sentences, figures and tables. All text in them is plain, and escaped later."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from grid.report.groups import Group, settings
from lethe.evaluation.intervals import Interval


@dataclass(frozen=True)
class Run:
    """A grid as it was read: the tables, and what is near them."""

    folder: Path
    plan: dict[str, Any]
    results: pd.DataFrame
    curves: pd.DataFrame
    check: dict[str, Any] | None
    groups: list[Group]
    corpora: list[str]

    @property
    def seeds(self) -> int:
        """The most seeds that an arm is finished at."""
        return max((len(g.finished) for g in self.groups), default=0)


@dataclass(frozen=True)
class Value:
    """A place in a table: what it shows, and for sorting and export the number with half its interval."""

    text: str
    number: float | None = None
    half: float | None = None
    half_text: str = ""
    note: str = ""
    faint: bool = False


@dataclass(frozen=True)
class Column:
    """`numeric` columns stand to the right; of those `with_half` the export has a second with half the interval.

    Of words, and of numbers that are `common`, what every row shares is said once (`trimmed`).
    """

    head: str
    numeric: bool = True
    with_half: bool = False
    common: bool = False


@dataclass(frozen=True)
class Table:
    """`key` names it in the address of the page and in the file that it is exported to; the first column heads rows."""

    key: str
    title: str
    note: str
    columns: list[Column]
    rows: list[list[Value]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure with its words. `spoken` is what one would tell who cannot see it; `choose` makes lines selectable."""

    key: str
    title: str
    note: str
    figure: go.Figure
    spoken: str
    choose: bool = False

    @property
    def names(self) -> dict[str, bool]:
        """The names in the legend, and whether they are drawn at first."""
        return {t.name: t.visible != "legendonly" for t in self.figure.data if t.name and t.showlegend}


@dataclass(frozen=True)
class Branch:
    """A stage of the tree, for all of its seeds."""

    text: str
    children: list["Branch"] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    lead: str
    points: list[str] = field(default_factory=list)
    parts: list[Picture | Table] = field(default_factory=list)
    tree: list[Branch] = field(default_factory=list)
    paragraphs: list[str] = field(default_factory=list)


def each_setting(run: Run) -> list[tuple[str, str, pd.DataFrame, list[Group]]]:
    """For a picture of each baseline and model: the ends of its key and title, the results to draw it of, its arms.

    The results hold `combined` too. So no picture is longer than a printed page.
    """
    found, many = settings(run.groups), len(settings(run.groups)) > 1
    pictures = []
    for i, (baseline, model, here) in enumerate(found, 1):
        everything = run.results["interleaving_ratio"].isna() & run.results["intervention"].isna()
        own = (everything | (run.results["baseline"] == baseline)) & (run.results["model"] == model)
        ends = (f"-{i}", f": {baseline}, {model}") if many else ("", "")
        pictures.append((*ends, run.results[own], here))
    return pictures


def trimmed(table: Table) -> Table:
    """Without the columns, but the first, that may and do say the same in every row; the note says it once."""
    columns = list(zip(*table.rows, strict=True))
    same = [
        i
        for i, column in enumerate(table.columns)
        if i and (column.common or not column.numeric) and len(set(columns[i])) == 1 < len(columns[i])
    ]
    if not same:
        return table
    said = "; ".join(f"{table.columns[i].head}: {columns[i][0].text}" for i in same)
    rows = [[value for i, value in enumerate(row) if i not in same] for row in table.rows]
    kept = [column for i, column in enumerate(table.columns) if i not in same]
    return replace(table, columns=kept, rows=rows, note=f"{table.note} The same in every row: {said}.")


def text(value: Any) -> Value:
    return Value("–" if value is None else str(value))


def measured(value: float | Interval | None, digits: int = 3, scale: float = 1, signed: bool = False) -> Value:
    """A number, or a mean with its interval, times `scale`."""
    if isinstance(value, Interval):
        if value.half is None:
            return measured(value.mean, digits, scale, signed)
        mean, half = scale * value.mean, scale * value.half
        return Value(number(mean, digits, signed), mean, half, f"±{number(half, digits)}")
    if value is None or not math.isfinite(value):
        return Value("–")
    return Value(number(scale * value, digits, signed), scale * value)


def extra(share: float) -> Value:
    """`+58 %` beside what is plain, whose share is 0; nan where it is not known."""
    if math.isnan(share):
        return Value("–")
    return Value(f"{number(100 * share, 0, signed=True)} %" if share else "0 %", 100 * share)


def number(value: float, digits: int, signed: bool = False) -> str:
    """For people: a proper minus, and no minus before 0."""
    if math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if signed else ''},.{digits}f}".replace("-", "−")


def with_interval(value: Interval | None, digits: int = 2, scale: float = 1, unit: str = "") -> str:
    """`1.08 ± 0.19 nats` in a sentence; with one seed the number alone."""
    if value is None:
        return "–"
    half = "" if value.half is None else f" ± {number(scale * value.half, digits)}"
    return f"{number(scale * value.mean, digits)}{half}{unit and ' '}{unit}"


def some(counted: int, word: str) -> str:
    return f"{counted:,} {word}{'' if counted == 1 else 's'}"


def listed(names: Iterable[Any]) -> str:
    """`a, b and c`."""
    *first, last = [str(name) for name in names] or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def about_intervals(run: Run) -> str:
    if run.seeds < 2:
        return "One seed a cell: there is no interval."
    return "± is half the 95 % interval of the mean over seeds (Student's t)."


def path_of(value: Mapping[str, Any], *keys: str) -> Any:
    """What lies under keys in nested mappings; None where one is missing."""
    found: Any = value
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
