"""Learning against forgetting: the picture of all arms, and each against interleaving at equal loss."""

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from grid.matched import matched
from grid.report.content import (
    Column,
    Picture,
    Run,
    Section,
    Table,
    Value,
    each_setting,
    extra,
    measured,
    text,
    trimmed,
    with_interval,
)
from grid.report.groups import Group, forgotten, learned_last, on_front, plain_of, seed_groups, settings
from grid.report.labels import place
from grid.report.style import FAMILY, NEUTRAL, draw, errors, looks, panels, plain, styled
from grid.summary import ARM
from lethe.evaluation.intervals import Interval

HEIGHT, WIDTH = 430, 590  # pixels, of a panel; the width is that of a printed page
GROWTH = "growth"
PRICES = {
    GROWTH: "grows by, %",
    "extra_flops": "FLOPs to train − plain's, %",
    "run_flops": "FLOPs to run − plain's, %",
}
Setting = tuple[str, str, str, str, list[Group]]
Point = tuple[Interval, Interval]


def section(run: Run) -> Section | None:
    """None where no corpus was learned after another, or by one arm alone."""
    if not _settings(run.groups):
        return None
    pictures = [
        Picture(
            f"learning-against-forgetting{key}",
            f"Learning against forgetting{title}",
            "Right: more loss on the later corpus than plain training at the same seed, so less learned. Up: more of "
            "the earlier one forgotten. Crosses are 95 % intervals of the means; blue joins the interleaving ratios; "
            "the dotted steps are the front, arms that no other beats in both means."
            + " A share beside a name is what the arm adds to the model's weights, at most."
            * any(map(_grows, here)),
            learning_against_forgetting(results),
            "; ".join(_spoken(*setting) for setting in _settings(here)),
        )
        for key, title, results, here in each_setting(run)
        if _settings(here)
    ]
    lead = (
        "The lower left is best. An arm right of another that forgets no less is beaten; what lies below the blue "
        "line forgets less than interleaving would at the same loss."
    )
    tables = [table] if (table := matched_table(run.results, run.groups)) else []
    lead += " The table says by how much, seed by seed." * len(tables)
    return Section("learning", "Learning against forgetting", lead, parts=[*pictures, *tables])


def learning_against_forgetting(results: pd.DataFrame) -> go.Figure:
    """Loss on the later corpus minus plain training's (paired) against forgetting, a labelled point per arm.

    A panel per baseline, model and pair of corpora; crosses are intervals over seeds. Without a plain arm the loss
    itself is drawn.
    """
    groups = seed_groups(results)
    shown, styles = _settings(groups), looks(groups)
    titles = [f"{b}, {m}" for b, m, *_ in shown]
    figure = panels(len(shown), 1, titles, height=HEIGHT)
    for row, (_, _, earlier, later, here) in enumerate(shown, 1):
        points = _points(here, earlier, later)
        _family_line(figure, row, points)
        _front_steps(figure, row, points, earlier, later)
        for group, (loss, lost) in points.items():
            colour = (style := styles[group.name])["line"]["color"]
            bars = {"error_x": errors([loss.half], colour), "error_y": errors([lost.half], colour)}
            at = [(loss.mean, lost.mean)]
            draw(figure, row, 1, group.name, at, mode="markers", marker=style["marker"], **bars)
        _name_points(figure, row, points)
        versus = " minus plain's" if plain_of(here) else ""
        figure.update_xaxes(title=plain(f"loss on {later}{versus}, nats"), row=row)
        figure.update_yaxes(title=plain(f"forgetting of {earlier}, nats"), row=row)
    height = HEIGHT * max(1, len(shown))
    return styled(figure, height).update_layout(showlegend=False, height=height + 70)


def matched_table(results: pd.DataFrame, groups: list[Group]) -> Table | None:
    """Every arm against interleaving at its own loss, with what that says; None without two ratios."""
    compared = [(row, _arm_of(row, groups)) for row in matched(results).to_dict("records")]
    prices = [name for name in PRICES if any(any(group.values(name)) for _, group in compared)]
    rows = []
    for row, group in compared:
        here = [g for g in groups if (g.baseline, g.model) == (row["baseline"], row["model"])]
        loss = group.minus(plain_of(here), f"final_loss/{row['later']}")
        lost = group.interval(f"forgetting/{row['earlier']}")
        difference = Interval(row["mean"], None if math.isnan(row["half"]) else row["half"], row["n"])
        place_, verdict = range_of(row), verdict_of(row)
        shown = measured(difference, signed=True)
        shown = Value(f"{place_[0]} {shown.text}".strip(), shown.number, shown.half, shown.half_text)
        names = [Value(group.name), text(f"{group.baseline}, {group.model}"), text(row["earlier"])]
        said = [Value(place_[1]), Value(verdict), *(extra(group.mean(name)) for name in prices)]
        rows.append([*names, measured(loss, signed=True), measured(lost), shown, *said])
    heads = [Column(name, numeric=False) for name in ("arm", "order, model", "forgotten corpus")]
    heads += [
        Column("loss on the later corpus − plain's, nats", with_half=True),
        Column("forgetting, nats", with_half=True),
        Column("forgetting − interleaving's at the same loss, nats", with_half=True),
        Column("its loss", numeric=False),
        Column("against interleaving", numeric=False),
        *(Column(PRICES[name], common=True) for name in prices),
    ]
    note = (
        "At each seed the arm's forgetting minus that which the front of the interleaving ratios, joined by straight "
        "lines, has at the arm's own loss on the later corpus; the mean of these differences ± half its 95 % "
        "interval. An arm whose loss lies beyond that front is held against the front's nearest end, which only "
        "bounds the difference: ≤ that if it learned more than any ratio, ≥ that if it learned less. "
        "Intervals are of each arm alone, without a correction for how many there are."
    )
    ordered = sorted(rows, key=lambda values: values[5].number or 0)
    return trimmed(Table("matched", "Compared at matched loss", note, heads, ordered)) if rows else None


def _arm_of(row: dict[str, Any], groups: list[Group]) -> Group:
    """Of a row of `matched`."""
    arm = tuple(row[name] for name in ARM)
    return next(g for g in groups if (g.baseline, g.model, g.ratio, g.intervention) == arm)


def range_of(row: dict[str, Any]) -> tuple[str, str]:
    """Of a row of `matched`: the word before its difference, and where the arm's loss lies."""
    n, below, above = row["n"], row["below"], row["above"]
    at = "" if n in (below, above) else f" at {below or above} of {n} seeds"
    if below and above:
        return "", "beyond both ends at some seeds"
    if below:
        return "≤", f"below interleaving's{at}"
    return ("≥", f"above interleaving's{at}") if above else ("", "within interleaving's")


def verdict_of(row: dict[str, Any]) -> str:
    """Of a row of `matched`: what its interval and its bound allow to say."""
    if math.isnan(row["half"]):
        return "one seed"
    if row["mean"] + row["half"] < 0 and not row["above"]:
        return "forgets less"
    if row["mean"] - row["half"] > 0 and not row["below"]:
        return "forgets more"
    return "not told apart"


def _settings(groups: list[Group]) -> list[Setting]:
    return [
        (baseline, model, earlier, later, here)
        for baseline, model, here in settings(groups)
        for earlier in forgotten(here)
        for later in learned_last(here)
        if len(_points(here, earlier, later)) > 1
    ]


def _points(here: list[Group], earlier: str, later: str) -> dict[Group, Point]:
    """Loss and forgetting of each arm that has both; the loss minus plain training's where that is there."""
    reference, found = plain_of(here), {}
    for group in here:
        metric = f"final_loss/{later}"
        loss = group.minus(reference, metric) if reference else group.interval(metric)
        lost = group.interval(f"forgetting/{earlier}")
        if loss and lost:
            found[group] = loss, lost
    return found


def _family_line(figure: go.Figure, row: int, points: dict[Group, Point]) -> None:
    family = [(loss.mean, lost.mean) for group, (loss, lost) in points.items() if group.is_interleaving]
    if len(family) > 1:
        line = {"color": FAMILY, "width": 2}
        draw(figure, row, 1, "interleaving", family, mode="lines", line=line, hoverinfo="skip")


def _front_steps(figure: go.Figure, row: int, points: dict[Group, Point], earlier: str, later: str) -> None:
    best = [points[group] for group in on_front(list(points), earlier, later)]
    line = {"color": NEUTRAL, "width": 1.5, "dash": "dot", "shape": "hv"}
    steps = [(loss.mean, lost.mean) for loss, lost in best]
    draw(figure, row, 1, "the front", steps, mode="lines", line=line, hoverinfo="skip")


def _name_points(figure: go.Figure, row: int, points: dict[Group, Point]) -> None:
    """Fix the panel's range, and write each arm's name where it covers no other."""
    at = np.array([(loss.mean, lost.mean) for loss, lost in points.values()])
    reach = np.array([(loss.half or 0, lost.half or 0) for loss, lost in points.values()])
    wide = at.max(axis=0) - at.min(axis=0) + 1e-6  # an interval wider than all points would press them together
    reach = np.minimum(reach, wide / 4)
    low, high = (at - reach).min(axis=0), (at + reach).max(axis=0)
    margin = (high - low) * [0.07, 0.08] + 1e-6
    low, high = low - margin, high + margin
    names = [_label(group) for group in points]
    pixels, spans = ((values) / (high - low) * [WIDTH, HEIGHT] for values in (at - low, reach))
    family = pixels[[group.is_interleaving for group in points]]
    places = place(pixels, names, spans, family, WIDTH, HEIGHT)
    axes = next(figure.select_xaxes(row=row)), next(figure.select_yaxes(row=row))
    for axis, ends in zip(axes, zip(low, high, strict=True), strict=True):
        axis.update(range=list(ends), zeroline=True)
    for (x, y), name, (right, down) in zip(at, names, places, strict=True):
        far = np.hypot(right, down) > 30
        figure.add_annotation(
            x=x, y=y, text=plain(name), ax=right, ay=down, showarrow=True, arrowhead=0, font_size=11,
            arrowwidth=0.8, arrowcolor=NEUTRAL if far else "rgba(0,0,0,0)", standoff=5, row=row, col=1,
        )  # fmt: skip


def _grows(group: Group) -> bool:
    return any(group.values(GROWTH))


def _label(group: Group) -> str:
    """`fracture_lora +58 %`: its name, and how much it grows where it does."""
    return f"{group.name} {extra(group.mean(GROWTH)).text}" if _grows(group) else group.name


def _spoken(baseline: str, model: str, earlier: str, later: str, here: list[Group]) -> str:
    points = _points(here, earlier, later)
    best = ", ".join(_label(group) for group in on_front(list(points), earlier, later))
    each = ", ".join(
        f"{_label(group)}: {with_interval(loss)} and {with_interval(lost)}" for group, (loss, lost) in points.items()
    )
    return f"{baseline}, {model}; on the front: {best}; loss on {later} and forgetting of {earlier}: {each}"
