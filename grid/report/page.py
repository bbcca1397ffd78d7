"""Read a grid's tables, and write its page."""

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from grid.report import arms, check, curves, headline, learning, methods, monitors, probes, ratio, stages
from grid.report.content import Picture, Run, Table
from grid.report.groups import corpora_of, seed_groups, unique
from grid.report.style import visible
from grid.summary import ARM
from lethe.config import UserError
from lethe.files import whole

SECTIONS = [headline, ratio, learning, curves, monitors, probes, stages, check, methods, arms]
CHECK = "self_check.json"


def write_report(folder: Path) -> Path:
    """Write `folder/report.html` from `folder`'s plan.json, results.parquet and curves.parquet; returns its path.

    `self_check.json` beside the folder, and what lies in the stage store and the token shards there, are shown where
    they are. The same inputs give the same bytes. Cells that are not finished are named and left out of every mean.
    Raises UserError when one of the three cannot be read.
    """
    page = _page(_read(folder)).encode()
    path = folder / "report.html"
    with whole(path) as temporary:
        temporary.write_bytes(page)
    return path


def _read(folder: Path) -> Run:
    """The tables; the results in the plan's order, with a row for each cell that has none yet."""
    plan = _file(folder / "plan.json", lambda path: json.loads(path.read_bytes()))
    results = _file(folder / "results.parquet", pd.read_parquet)
    planned = pd.DataFrame(plan["cell_list"], columns=["cell", *ARM, "seed"]).set_index("cell")
    results, columns = results.set_index("cell"), results.columns.drop("cell")
    cells = unique([*planned.index, *results.index])
    results = results.combine_first(planned).reindex(index=cells, columns=columns).reset_index()
    results = results.assign(status=results["status"].fillna("no result yet"))
    beside = folder.parent / CHECK
    return Run(
        folder=folder,
        plan=plan,
        results=results,
        curves=_file(folder / "curves.parquet", pd.read_parquet),
        check=_file(beside, lambda path: json.loads(path.read_bytes())) if beside.is_file() else None,
        groups=seed_groups(results),
        corpora=unique([*plan["corpora"], *corpora_of(results)]),
    )


def _file(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (OSError, ValueError) as error:
        allowed = "allowed: the file that running a grid leaves there"
        raise UserError(f"{path}: cannot be read ({error}); {allowed}") from None


def _page(run: Run) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    environment.filters["unescape"] = html.unescape  # of names that were escaped for plotly
    found = [section for module in SECTIONS if (section := module.section(run))]
    parts = [part for section in found for part in section.parts]
    here = Path(__file__).parent
    return environment.get_template("page.html.jinja").render(
        plan=run.plan,
        sections=found,
        state=headline.state(run),
        configuration=_written(run.plan.get("config")),
        numbers={part.key: i for kind in (Picture, Table) for i, part in enumerate(_of(parts, kind), 1)},
        figures={part.key: _drawn(part) for part in _of(parts, Picture)},
        # The library and the page's own files; all else is escaped.
        plotly_js=Markup(get_plotlyjs()),  # noqa: S704
        style=Markup((here / "page.css").read_text()),  # noqa: S704
        script=Markup((here / "page.js").read_text()),  # noqa: S704
    )


def _written(value: Any, depth: int = 0) -> str:
    """As JSON, but what holds no mapping on one line."""
    if isinstance(value, dict) and value:
        inner = ",\n".join(f"{'  ' * (depth + 1)}{json.dumps(k)}: {_written(v, depth + 1)}" for k, v in value.items())
        return f"{{\n{inner}\n{'  ' * depth}}}"
    return json.dumps(value, ensure_ascii=False)


def _of(parts: list[Any], kind: type) -> list[Any]:
    return [part for part in parts if isinstance(part, kind)]


def _drawn(picture: Picture) -> dict[str, Any]:
    """Data and layout; names that wait in the legend are left to the boxes beside the figure."""
    figure = json.loads(picture.figure.to_json())
    for trace in figure["data"]:
        if trace.get("visible") == "legendonly":
            trace["visible"] = False
    return figure
