"""Drift: how far a model in whole training came from that of A, where `fracture` cut it, and what that had spent."""

from collections.abc import Hashable

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from grid.report.content import Picture, Run, each_setting, listed, number, some
from grid.report.groups import Group, seed_groups
from grid.report.lines import Lines, Panel, draw_arm
from grid.report.style import PANEL_HEIGHT, Look, draw, draw_band, looks, panels, styled
from lethe.interventions.watch import DRIFT
from lethe.training.store import SPENT

THRESHOLD = f"{DRIFT}_threshold"
READINGS = ["baseline", "model", "stage", "arm", "seed", "tokens", DRIFT, THRESHOLD, "fired"]


def pictures(run: Run) -> list[Picture]:
    """A picture for each baseline and model in which the gauge was read."""
    found = []
    for key, title, results, _ in each_setting(run):
        here = readings(results, run.curves)
        if not here.empty:
            figure = drift_curves(results, run.curves)
            found.append(Picture(f"drift{key}", f"Drift{title}", _note(here), figure, _spoken(here), choose=True))
    return found


def readings(results: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """A row per reading of the gauge of a finished cell: columns READINGS, in the order of the arms.

    `tokens` count from the switch to the stage; `drift` and its threshold, nan where nothing waits for it, are nats;
    `arm` is the name of the group. Where `fired`, the last reading of the cell and stage passed the threshold.
    """
    names = curves["name"].str.removeprefix(SPENT)
    found = curves[names.isin([DRIFT, THRESHOLD])]
    since = curves["tokens"] - curves.groupby(["cell", "stage"])["tokens"].transform("min")
    found = found.assign(fired=found["name"].str.startswith(SPENT), name=names, tokens=since)
    wide = found.pivot_table(index=["cell", "stage", "fired", "tokens"], columns="name", values="value")
    wide = wide.reindex(columns=[DRIFT, THRESHOLD]).reset_index()
    rows = [
        wide[wide["cell"] == cell].assign(baseline=g.baseline, model=g.model, arm=g.name, seed=seed)
        for g in seed_groups(results)
        for cell, seed in zip(g.finished["cell"], g.finished["seed"], strict=True)
    ]
    return pd.concat(rows)[READINGS].reset_index(drop=True) if rows else pd.DataFrame(columns=READINGS)


def drift_curves(results: pd.DataFrame, curves: pd.DataFrame) -> go.Figure:
    """The gauge against tokens since the switch, a row per baseline, model and later stage; both in READINGS.

    An arm that trained whole to its end at all seeds is their mean with its interval, another a line a seed. Thresholds
    are dashed, their range over seeds shaded; a cross is where a seed passed its own, was rolled back and cut.
    """
    found, styles = readings(results, curves), looks(seed_groups(results))
    rows = list(found.groupby(["baseline", "model", "stage"], sort=False))
    several = {key for key, stages in found.groupby(["baseline", "model"])["stage"] if stages.nunique() > 1}
    titles = [f"{b}, {m}" + (f", stage {stage + 1}" if (b, m) in several else "") for (b, m, stage), _ in rows]
    figure = panels(len(rows), 1, titles)
    for row, (_, here) in enumerate(rows, 1):
        panel = Panel(figure, row, 1, set())
        for arm, points in here.groupby("arm", sort=False):
            if points["fired"].any():
                _draw_seeds(panel, str(arm), points, styles[arm])
            else:
                seeds = [own.assign(value=own[DRIFT]) for _, own in points.groupby("seed")]
                draw_arm(panel, str(arm), seeds, styles[arm])
        _draw_thresholds(panel, here, styles)
        highest = float(here[DRIFT].max())
        near = here[THRESHOLD][here[THRESHOLD] < 2 * highest]  # one far above would press the lines flat
        figure.update_yaxes(title="drift, nats", range=[0, 1.08 * np.fmax(highest, near.max())], row=row)
    figure.update_xaxes(type="log", dtick="D2", tickformat="~s")  # it fires early or never
    figure.update_xaxes(title="tokens since the switch", row=max(1, len(rows)))
    return styled(figure, PANEL_HEIGHT * max(1, len(rows)))


def was_spent(results: pd.DataFrame, curves: pd.DataFrame) -> bool:
    """Whether a finished cell of the results was rolled back."""
    return bool((curves["cell"].isin(results["cell"]) & curves["name"].str.startswith(SPENT)).any())


def draw_spent(panel: Panel, group: Group, lines: Lines, name: str, style: Look) -> None:
    """What was measured under a name until the roll-back, a thin line a seed, with a cross there at the last value."""
    for cell in group.finished["cell"]:
        for stage, line in _by_stage(lines, cell, f"{SPENT}{name}"):
            cut = dict(_by_stage(lines, cell, f"{SPENT}{DRIFT}"))[stage]["tokens"].max()
            _crossed(panel, group.name, [*line[["tokens", "value"]].to_numpy(), (cut, line["value"].iloc[-1])], style)


def _by_stage(lines: Lines, cell: str, name: str) -> list[tuple[Hashable, pd.DataFrame]]:
    return list(lines[cell, name].groupby("stage")) if (cell, name) in lines else []


def _draw_seeds(panel: Panel, arm: str, points: pd.DataFrame, style: Look) -> None:
    for seed, own in points.groupby("seed"):
        line = own[["tokens", DRIFT]].to_numpy()
        if own["fired"].any():
            _crossed(panel, arm, line, style, dash="solid", text=f"seed {seed}")
        else:
            draw(panel.figure, panel.row, panel.column, arm, line, mode="lines", line=style["line"] | {"width": 1.2})


def _crossed(panel: Panel, name: str, points: list, style: Look, dash: str = "dot", text: str = "spent") -> None:
    """A thin line that ends in a cross."""
    colour = style["line"]["color"]
    sizes = [0] * (len(points) - 1) + [8]
    marker = {"color": colour, "symbol": "x", "size": sizes, "line_width": 0, "opacity": 1}  # else they would be faint
    line = {"color": colour, "dash": dash, "width": 1.2}
    at = panel.figure, panel.row, panel.column, name
    draw(*at, points, mode="lines+markers", line=line, marker=marker, text=text)


def _draw_thresholds(panel: Panel, here: pd.DataFrame, styles: dict[str, Look]) -> None:
    """Means over seeds with their range; each once, however many arms wait for it."""
    ends = here["tokens"].min(), here["tokens"].max()
    alike: dict[tuple[float, ...], list[str]] = {}
    for arm, points in here.groupby("arm", sort=False):
        if thresholds := _thresholds(points):
            alike.setdefault(thresholds, []).append(str(arm))
    for thresholds, arms in alike.items():
        name, line = f"threshold of {listed(arms)}", styles[arms[0]]["line"] | {"dash": "dash", "width": 1.2}
        at = panel.figure, panel.row, panel.column, name
        draw_band(*at, np.array([(x, min(thresholds), max(thresholds)) for x in ends], dtype=np.float64), line=line)
        draw(*at, [(x, float(np.mean(thresholds))) for x in ends], mode="lines", line=line)


def _thresholds(points: pd.DataFrame) -> tuple[float, ...]:
    """Of each seed of an arm in a stage; empty where nothing waits."""
    return tuple(points.dropna(subset=THRESHOLD).groupby("seed")[THRESHOLD].last())


def _note(here: pd.DataFrame) -> str:
    note = "KL from the model of A to the one in training, per token of text sampled from the former. "
    if here["fired"].any():
        note += "A cross is where a seed passed its threshold: the stage was rolled back to the switch, the model cut. "
    if here[THRESHOLD].notna().any():
        note += "Dashed are thresholds, means over seeds, their range shaded. "
    return note + "An arm that trains whole to its end is a mean with its 95 % interval, another a thin line a seed."


def _spoken(here: pd.DataFrame) -> str:
    told = []
    for (baseline, model, stage, arm), points in here.groupby(["baseline", "model", "stage", "arm"], sort=False):
        ends = points.groupby("seed").last()
        cut, whole = ends[ends["fired"]]["tokens"], ends[~ends["fired"]][DRIFT]
        parts = []
        if len(cut):
            span = f" ({cut.min():,} to {cut.max():,})" if len(cut) > 1 else ""
            parts.append(f"fired at {len(cut)} of {some(len(ends), 'seed')} after {number(cut.mean(), 0)} tokens{span}")
        if len(whole):
            parts.append(f"trained whole to the end, where the drift was {number(whole.mean(), 2)} nats")
        if thresholds := _thresholds(points):
            parts.append(f"the threshold was {number(float(np.mean(thresholds)), 2)} nats")
        told.append(f"{baseline}, {model}, stage {stage + 1}, {arm} {', '.join(parts)}")
    return "; ".join(told)
