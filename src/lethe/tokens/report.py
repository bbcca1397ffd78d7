"""The report of a tokenizer: `report.json` and the same as a picture, `report.html`; its table and recommendation."""

import json
from pathlib import Path
from textwrap import wrap
from typing import Any

from lethe.files import whole, write_json
from lethe.model.config import ModelConfig
from lethe.model.cost import parameters
from lethe.progress import aligned
from lethe.tokens.tokenizer import padded

WITHIN = 0.02  # of all words

Row = dict[str, Any]
_MEASURES = {
    "coverage": ("coverage", ".1%"),
    "bytes_per_token": ("bytes/token", ".2f"),
    "fertility": ("tokens/word", ".3f"),
    "used": ("used", ".1%"),
    "rare": ("rare", ".1%"),
}


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write `report.html` and then `report.json`, each whole or not at all."""
    with whole(folder / "report.html") as temporary:
        temporary.write_text(picture(report), encoding="utf-8")
    write_json(folder / "report.json", report)


def add_models(folder: Path, models: dict[str, ModelConfig]) -> dict[str, Any]:
    """The report of a finished tokenizer, with the embeddings of these models (and of those it had) written to it."""
    report = json.loads((folder / "report.json").read_bytes())
    added = report["models"] | {name: embeddings(model, report["analysis"]) for name, model in models.items()}
    if added != report["models"]:
        report["models"] = added
        write_report(folder, report)
    return report


def embeddings(model: ModelConfig, rows: list[Row]) -> list[dict[str, Any]]:
    """For each size of the analysis: the model's parameters, those of its embedding (which is its head), its share."""
    result = []
    for candidate, vocab_size in _sizes(rows).items():
        embedding, whole_model = padded(vocab_size) * model.d_model, parameters(model, padded(vocab_size))
        share = embedding / whole_model
        result.append({"candidate": candidate, "parameters": whole_model, "embedding": embedding, "share": share})
    return result


def recommend(rows: list[Row]) -> dict[str, Any]:
    """The size to take, `vocab_size`, and the `reason`, a sentence with its numbers.

    The rule: the smallest size whose coverage is within two points of the largest size's on every corpus. Twice as
    many ids are twice the embedding, and where they make single tokens of two words in a hundred, no text gets more
    than about two in a hundred shorter. `vocab_size` is null where no words of a corpus are held out.
    """
    sizes = sorted(_sizes(rows))
    at = {size: {row["corpus"]: row for row in rows if row["candidate"] == size} for size in sizes}
    top = at[sizes[-1]]
    missing = [corpus for corpus, row in top.items() if row["coverage"] is None]
    if missing:
        return {"vocab_size": None, "reason": f"no size: no words of {', '.join(missing)} are held out to measure on"}

    def short(size: int) -> tuple[float, str]:
        return max((top[corpus]["coverage"] - row["coverage"], corpus) for corpus, row in at[size].items())

    best = next(size for size in sizes if short(size)[0] <= WITHIN)
    covered = ", ".join(f"{row['coverage']:.1%} of {corpus}" for corpus, row in at[best].items())
    reason = f"{best:,} ids, which cover {covered}: "
    if best < sizes[-1]:
        fewer = max(1 - row["bytes_per_token"] / top[corpus]["bytes_per_token"] for corpus, row in at[best].items())
        reason += (
            f"the smallest size within {100 * WITHIN:.0f} points of {sizes[-1]:,} ids on every corpus "
            f"({_points(short(best))}; those would make the text {fewer:.1%} shorter and the embedding "
            f"{sizes[-1] / best:.3g} times larger)"
        )
    else:
        reason += "the largest of the sizes, so a larger one may serve better"
    smaller = [f"{size:,} ids are {_points(short(size))}" for size in sizes if size < best]
    return {"vocab_size": best, "reason": "; ".join([reason, *(smaller[-1:] or ["a smaller one may do"])])}


def _points(short: tuple[float, str]) -> str:
    return f"{100 * short[0]:.1f} points short on {short[1]}"


def _sizes(rows: list[Row]) -> dict[int, int]:
    """The size that each candidate came to."""
    return {row["candidate"]: row["vocab_size"] for row in rows}


def table(rows: list[Row]) -> str:
    """The rows of the analysis as aligned text, under a line of headings."""
    head = ["candidate", "vocabulary", "corpus", *(heading for heading, _ in _MEASURES.values()), "coverage of val"]
    body = [
        [
            f"{row['candidate']:,}",
            f"{row['vocab_size']:,}",
            row["corpus"],
            *(_number(row[name], form) for name, (_, form) in _MEASURES.items()),
            _number(row["val"]["coverage"], ".1%"),
        ]
        for row in rows
    ]
    return "\n".join(aligned([head, *body], str.rjust))


def embedding_table(models: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each model: millions of parameters of its embedding, and their share of the model, at each size."""
    sizes = next(iter(models.values()))
    head = ["embedding", *(f"{at['candidate']:,}" for at in sizes)]
    body = [
        [name, *(f"{at['embedding'] / 1e6:.2f}M {at['share']:.0%}" for at in each)] for name, each in models.items()
    ]
    return "\n".join(aligned([head, *body], str.rjust))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def picture(report: dict[str, Any]) -> str:
    """A self-contained page: each measure against the size, a line a corpus; the embedding's share, a line a model."""
    import plotly.graph_objects as go
    from plotly.colors import qualitative
    from plotly.subplots import make_subplots

    titles = {
        "coverage": "words that are one token (dotted: the val split)",
        "bytes_per_token": "bytes per token",
        "fertility": "tokens per word",
        "used": "share of the vocabulary used",
        "rare": "share of it seen fewer than 10 times",
        "share": "share of a model that is embedding",
    }
    figure = make_subplots(rows=2, cols=3, subplot_titles=[*titles.values()], vertical_spacing=0.15)
    places = {name: {"row": i // 3 + 1, "col": i % 3 + 1} for i, name in enumerate(titles)}
    rows, colours = report["analysis"], qualitative.Plotly + qualitative.Dark24

    def line(measure: str, name: str, points: list[Row], legend: bool, number: int, dash: str = "solid") -> None:
        figure.add_trace(
            go.Scatter(
                x=[point["candidate"] for point in points],
                y=[point[measure] for point in points],
                name=name,
                mode="lines+markers",
                line={"color": colours[number % len(colours)], "dash": dash},
                legendgroup=name,
                showlegend=legend,
            ),
            **places[measure],
        )

    corpora = list(dict.fromkeys(row["corpus"] for row in rows))
    for number, corpus in enumerate(corpora):
        points = [row for row in rows if row["corpus"] == corpus]
        for measure in _MEASURES:
            line(measure, corpus, points, measure == "coverage", number)
        line("coverage", corpus, [{**point, **point["val"]} for point in points], False, number, "dot")
    for number, (name, points) in enumerate(report["models"].items()):
        line("share", f"model {name}", points, True, len(corpora) + number)
    sizes = list(_sizes(rows))
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{size:,}" for size in sizes])
    for name in ("coverage", "used", "rare", "share"):
        figure.update_yaxes(tickformat=".0%", **places[name])
    figure.add_vline(report["config"]["vocab_size"], line={"color": "grey", "dash": "dash", "width": 1})
    reason = "<br>".join(wrap(f"recommended: {report['recommendation']['reason']}", 170))
    title = f"Vocabulary of {report['config']['vocab_size']:,} ids (dashed)<br><sub>{reason}</sub>"
    figure.update_layout(title=title, template="plotly_white", height=760, margin={"t": 140})
    return figure.to_html(include_plotlyjs=True, full_html=True, div_id="vocabulary", config={"displaylogo": False})
