"""A survey for people: as lines for the terminal, and as a picture in one self-contained HTML file."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lethe.progress import aligned

Survey = Mapping[str, Any]
TOP = 3  # sites named on the terminal
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")


def table(survey: Survey) -> str:
    """Prevalence, what is available, the largest sites, the scan for each model, and whether the plan can be filled."""
    source, sample = survey["source"], survey["sample"]
    lines = [
        f"{source['rows']:,} rows, {source['tokens']:,} tokens; sampled {sample['rows']:,} rows of "
        f"{sample['row_groups']:,} of {sample['of_row_groups']:,} row groups; 95 % intervals",
        "",
        *aligned(
            [
                ["domain", "of documents", "documents", "of tokens", "tokens", "sites seen"],
                *(_domain(name, domain) for name, domain in survey["domains"].items()),
            ]
        ),
        *(_top(name, domain) for name, domain in survey["domains"].items()),
        "",
        f"source tokens to scan for {survey['tokens_a_parameter']} training tokens a parameter (the source has "
        f"{_short(source['tokens'])}; {survey['binds']} binds)",
        *aligned(
            [
                ["model", "parameters", "tokens", *survey["domains"]],
                *(_model(name, model) for name, model in survey["models"].items()),
            ]
        ),
        "",
        "plan: tokens that a sequence reads, counted as the source counts tokens",
        *(_plan(name, planned, survey) for name, planned in survey["plan"].items()),
    ]
    return "\n".join(lines)


def _domain(name: str, domain: Survey) -> list[str]:
    cells = [name]
    for kind in ("documents", "tokens"):
        found = domain[kind]
        available = found["available"]
        cells.append(f"{found['share']:.2%} ({found['low']:.2%} to {found['high']:.2%})")
        cells.append(f"{_short(available['value'])} ({_short(available['low'])} to {_short(available['high'])})")
    return [*cells, f"{domain['sites']['sampled']:,}"]


def _top(name: str, domain: Survey) -> str:
    sites = domain["sites"]
    named = ", ".join(f"{site['site'] or '(no site)'} {site['share']:.1%}" for site in sites["top"][:TOP])
    return f"{name}: {sites['top_share']:.1%} of its tokens on {len(sites['top'])} sites: {named or 'none seen'}, ..."


def _model(name: str, model: Survey) -> list[str]:
    scans = []
    for corpus, scan in model["scan"].items():
        if scan["tokens"] is None:
            scans.append("none in sight")
            continue
        epochs = model["epochs"][corpus]
        more = f", {epochs:,.{0 if epochs >= 10 else 1}f} epochs" if epochs > 1 else ""
        scans.append(f"{_short(scan['tokens'])} ({_short(scan['low'])} to {_short(scan['high'])}){more}")
    return [name, _short(model["parameters"]), _short(model["tokens"]), *scans]


def _plan(name: str, planned: Survey, survey: Survey) -> str:
    train, epochs = survey["domains"][name]["train_tokens"], planned["epochs"]
    read = f"{name}: {_short(planned['tokens'])} of {_short(train['value'])} training tokens"
    if planned["verdict"] == "filled":
        return f"{read}: can be filled ({epochs:.2f} epochs)"
    if planned["verdict"] == "epochs":
        return f"{read}: needs {epochs:.2f} epochs (stage.max_epochs: {survey['max_epochs']:g})"
    many = "there are none in sight" if epochs is None else f"needs {epochs:.2f} epochs"
    return f"{read}: CANNOT BE FILLED: {many}, stage.max_epochs allows {survey['max_epochs']:g}"


def _short(count: float | None) -> str:
    """Three digits and a letter: 1.23G."""
    if count is None:
        return "no end"
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{letter}" if count < 999.5 * size else f"{count / size:,.0f}{letter}"
    return f"{count:,.0f}"


def picture(survey: Survey) -> str:
    """Three charts as one HTML page without outer parts: prevalence, the largest sites, the scan for each model."""
    tokens = survey["source"]["tokens"]
    figure = make_subplots(
        rows=3,
        cols=1,
        vertical_spacing=0.1,
        subplot_titles=(
            "Share of the source, with 95 % intervals",
            "The largest sites: share of the domain's tokens",
            f"Source tokens to scan for {survey['tokens_a_parameter']} training tokens a parameter (dotted: all the "
            f"source has, {_short(tokens)})",
        ),
    )
    for (name, domain), colour in zip(survey["domains"].items(), COLOURS * len(survey["domains"]), strict=False):
        _add_shares(figure, name, domain, colour)
        _add_sites(figure, name, domain, colour)
        _add_scans(figure, name, survey["models"], colour)
    figure.add_hline(tokens, row=3, col=1, line_dash="dot")
    figure.update_yaxes(tickformat=".1%", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero", row=2, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)
    figure.update_yaxes(type="log", row=3, col=1, title_text="source tokens", exponentformat="SI", dtick=1)
    figure.update_xaxes(type="log", row=3, col=1, title_text="parameters", exponentformat="SI", dtick=1)
    heights = 320 + 22 * sum(len(domain["sites"]["top"]) for domain in survey["domains"].values()) + 420
    figure.update_layout(template="plotly_white", height=heights + 200, width=1000, barmode="group")
    return figure.to_html(include_plotlyjs=True, full_html=True)


def _add_shares(figure: go.Figure, name: str, domain: Survey, colour: str) -> None:
    found = [domain["documents"], domain["tokens"]]
    error = {
        "array": [each["high"] - each["share"] for each in found],
        "arrayminus": [each["share"] - each["low"] for each in found],
    }
    shares = [each["share"] for each in found]
    bar = go.Bar(x=["documents", "tokens"], y=shares, error_y=error, name=name, marker_color=colour, legendgroup=name)
    figure.add_trace(bar, row=1, col=1)


def _add_sites(figure: go.Figure, name: str, domain: Survey, colour: str) -> None:
    top = domain["sites"]["top"]
    labels = [f"{name}: {site['site'] or '(no site)'}" for site in top]
    bar = go.Bar(
        x=[site["share"] for site in top],
        y=labels,
        orientation="h",
        text=[f"{site['source_documents']:,} of the source's pages" for site in top],
        textposition="outside",
        cliponaxis=False,
        marker_color=colour,
        legendgroup=name,
        showlegend=False,
    )
    figure.add_trace(bar, row=2, col=1)


def _add_scans(figure: go.Figure, name: str, models: Survey, colour: str) -> None:
    there = [(model, each) for model, each in models.items() if each["scan"][name]["tokens"] is not None]
    scans = [each["scan"][name] for _, each in there]
    line = go.Scatter(
        x=[each["parameters"] for _, each in there],
        y=[scan["tokens"] for scan in scans],
        error_y={
            "array": [(scan["high"] or scan["tokens"]) - scan["tokens"] for scan in scans],
            "arrayminus": [scan["tokens"] - scan["low"] for scan in scans],
        },
        mode="lines+markers+text",
        text=[model for model, _ in there],
        textposition="top left",
        line_color=colour,
        legendgroup=name,
        showlegend=False,
    )
    figure.add_trace(line, row=3, col=1)
