"""What the model knew of a corpus and what is left of it: accuracy by type and form, before and after."""

import re

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
    text,
    trimmed,
)
from grid.report.groups import Group, few, learned_last, seed_groups, settings, unique
from grid.report.style import COLOURS, NEUTRAL, errors, panels, plain, rule, styled
from lethe.evaluation.probe_metrics import CHANCE, STANDARD_ERRORS

ROW = 24  # pixels
NAME = re.compile(r"probe_accuracy_learned/([^/]+)/(.+)")


def section(run: Run) -> Section | None:
    """None without probes of a corpus that could be forgotten."""
    table = _table(run.groups)
    if table is None:
        return None
    pictures = [
        Picture(
            f"probes{key}",
            f"Accuracy of the probes before and after{title}",
            "Open: when the corpus's own stage ended. Filled: at the end of the sequence. Means over seeds with 95 % "
            "intervals; dashed is chance. Grey and in brackets: what the model of the corpus did not know, so that it "
            "could not be forgotten.",
            probe_accuracies(results),
            "the numbers stand in the table below",
        )
        for key, title, results, here in each_setting(run)
        if asked_of(here)
    ]
    lead = (
        f"Four-way choices, so chance is {100 * CHANCE:.0f} %. A type counts only where, at most seeds, the model of "
        f"the corpus itself was {STANDARD_ERRORS:g} standard errors above chance. Look how far the filled mark lies "
        f"left of the open one. {about_intervals(run)}"
    )
    return Section("probes", "Probes of knowledge", lead, parts=[*pictures, table])


def probe_accuracies(results: pd.DataFrame) -> go.Figure:
    """Accuracy by type and form when learned and at the end, per cent: a row per corpus, a column per arm.

    The arms are plain training, the highest ratio and the leading ones; a type that does not count is grey.
    """
    groups = seed_groups(results)
    rows = [(b, m, x, here) for b, m, here in settings(groups) for x in asked_of(here)]
    arms = [few(here) for _, _, x, here in rows]
    heights = [ROW * len(kinds(here, x)) + 40 for _, _, x, here in rows]
    total, columns = sum(heights) + 80 * len(rows), max(map(len, arms), default=1)
    names = [[g.name for g in own] + [""] * (columns - len(own)) for own in arms]
    titles = [
        f"{b}: {x}, {name}" if i == 0 else name
        for (b, _, x, _), own in zip(rows, names, strict=True)
        for i, name in enumerate(own)
    ]
    figure = panels(
        len(rows),
        columns,
        titles,
        row_heights=heights,
        shared_yaxes=True,
        vertical_spacing=80 / total if len(rows) > 1 else 0,
        horizontal_spacing=0.03,
    )
    for row, ((_, _, x, here), own) in enumerate(zip(rows, arms, strict=True), 1):
        for column, group in enumerate(own, 1):
            _panel(figure, row, column, group, x, kinds(here, x))
        figure.update_yaxes(autorange="reversed", automargin=True, row=row)
    figure.update_xaxes(range=[0, 103], dtick=25)
    figure.update_xaxes(title="right, %", row=max(1, len(rows)))
    return styled(figure, total).update_layout(height=total + 70, margin_b=50)


def asked_of(here: list[Group]) -> list[str]:
    """The corpora whose probes can tell of forgetting: those learned before the last stage, and what is neutral."""
    names = unique(column for g in here for column in g.finished)
    found = unique(match[1] for name in names if (match := NAME.fullmatch(str(name))))
    return [corpus for corpus in found if corpus not in learned_last(here) and kinds(here, corpus)]


def kinds(here: list[Group], corpus: str) -> list[str]:
    """TYPE/FORM of the probes of a corpus that these arms were asked, those that count first."""
    names = unique(column for g in here for column in g.finished)
    found = [match[2] for name in names if (match := NAME.fullmatch(str(name))) and match[1] == corpus]
    found = [kind for kind in found if any(g.values(f"probe_accuracy_learned/{corpus}/{kind}") for g in here)]
    return sorted(found, key=lambda kind: not counts(here, corpus, kind))


def counts(here: list[Group], corpus: str, kind: str) -> bool:
    """Whether the model of the corpus knew these facts at most of the seeds."""
    known = [value for g in here for value in g.values(f"probe_counts/{corpus}/{kind}")]
    return bool(known) and sum(known) > len(known) / 2


def _panel(figure: go.Figure, row: int, column: int, group: Group, corpus: str, asked: list[str]) -> None:
    for name, metric, symbol in (
        ("when learned", "probe_accuracy_learned", "circle-open"),
        ("at the end", "probe_accuracy", "circle"),
    ):
        for known in (True, False):
            shown = [kind for kind in asked if counts([group], corpus, kind) == known]
            means = {kind: group.interval(f"{metric}/{corpus}/{kind}") for kind in shown}
            found = {kind: mean for kind, mean in means.items() if mean}
            if not found:
                continue
            colour = COLOURS[0] if known else NEUTRAL
            bars = errors([100 * m.half if m.half else None for m in found.values()], colour)
            figure.add_scatter(
                x=[100 * m.mean for m in found.values()],
                y=[plain(_words(kind, counts([group], corpus, kind))) for kind in found],
                name=name if known else f"{name}, not known",
                mode="markers",
                marker={"symbol": symbol, "size": 9, "color": colour, "line": {"width": 2, "color": colour}},
                error_x=bars,
                row=row,
                col=column,
            )
    rule(figure, row, column, x=100 * CHANCE)


def _table(groups: list[Group]) -> Table | None:
    rows = []
    for baseline, model, here in settings(groups):
        for x in asked_of(here):
            for kind in kinds(here, x):
                for group in here:
                    if group.values(f"probe_accuracy/{x}/{kind}"):
                        rows.append([*_names(baseline, model, group, x, kind), *_numbers(group, x, kind)])
    heads = [Column(name, numeric=False) for name in ("arm", "order, model", "corpus", "type", "form")]
    heads += [Column("facts")]
    heads += [Column(name, with_half=True) for name in ("when learned, %", "at the end, %", "lost, points")]
    heads += [Column("margin lost, nats", with_half=True), Column("counts", numeric=False)]
    note = (
        "Accuracy when the corpus's own stage ended and at the end of the sequence; the margin is the score of the "
        "answer minus that of the best distractor. What does not count is grey and has no loss."
    )
    return trimmed(Table("probe-table", "Probes by type and form", note, heads, rows, folded=True)) if rows else None


def _names(baseline: str, model: str, group: Group, corpus: str, kind: str) -> list[Value]:
    type_, _, form = kind.partition("/")
    return [Value(group.name), text(f"{baseline}, {model}"), text(corpus), text(type_), text(form or None)]


def _numbers(group: Group, corpus: str, kind: str) -> list[Value]:
    def of(metric: str, scale: float, digits: int) -> Value:
        shown = measured(group.interval(f"{metric}/{corpus}/{kind}"), digits, scale)
        return Value(shown.text, shown.number, shown.half, shown.half_text, faint=not known)

    known = counts([group], corpus, kind)
    asked = group.values(f"probe_counts/{corpus}/{kind}")
    word = f"at {int(sum(asked))} of {len(asked)} seeds"
    return [
        of("probe_facts", 1, 0),
        of("probe_accuracy_learned", 100, 1),
        of("probe_accuracy", 100, 1),
        of("probe_accuracy_lost", 100, 1) if known else Value("–"),
        of("probe_margin_lost", 1, 2) if known else Value("–"),
        Value(word if known else f"no, {word}", faint=not known),
    ]


def _words(kind: str, known: bool) -> str:
    shown = kind.replace("/", ", ")
    return shown if known else f"({shown})"
