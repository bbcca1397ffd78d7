"""What was found, in sentences filled from the numbers, and the state of the grid."""

import math
from collections import Counter
from dataclasses import replace

from grid.matched import matched
from grid.report.content import Run, Section, about_intervals, listed, number, some, with_interval
from grid.report.groups import Group, forgotten, learned_last, percent, plain_of, settings, unique
from grid.report.learning import verdict_of
from lethe.evaluation.intervals import Interval

NAMED = 10  # cells that are named where they failed


def section(run: Run) -> Section:
    points = [point for setting in settings(run.groups) for point in _setting(run, *setting)]
    if not points and any(len(g.finished) for g in run.groups):
        points = ["No finished cell has an earlier corpus that it could forget."]
    elif not points:
        points = ["No cell is finished yet; figures and means appear with the first one."]
    return Section("findings", "What was found", f"{_grid(run)} {about_intervals(run)}", points=points)


def state(run: Run) -> list[str]:
    """What is not finished, and why; empty where all is."""
    missing = run.results[run.results["status"] != "finished"]
    if missing.empty:
        return []
    done = len(run.results) - len(missing)
    lines = [f"{done:,} of {some(len(run.results), 'cell')} finished. Left out of every mean:"]
    for row in missing.head(NAMED).to_dict("records"):
        reason = f": {row['reason']}" if isinstance(row.get("reason"), str) else ""
        lines.append(f"{row['cell']} ({row['status']}{reason})")
    if len(missing) > NAMED:
        counts = Counter(missing["status"])
        every = listed(f"{count} {status}" for status, count in counts.items())
        lines.append(f"and {len(missing) - NAMED} more, in all {every}; see the table of cells")
    return lines


def _grid(run: Run) -> str:
    """`75 cells: 3 orders, 1 model, 4 ratios, 20 interventions, 3 seeds; corpora food and automotive.`"""
    parts, shown = [], {"interleaving_ratio": percent, "seed": "{:g}".format}
    for column in ("baseline", "model", "interleaving_ratio", "intervention", "seed"):
        values = unique(run.results[column].dropna()) if column in run.results else []
        names = list(map(shown.get(column, str), sorted(values) if column == "interleaving_ratio" else values))
        if names:
            word = column.replace("_", " ")
            many = f" {listed(names)}" if len(names) <= 8 else ""
            parts.append(f"{word if len(names) == 1 else f'{len(names)} {word}s'}{many}")
    cells = some(len(run.results), "cell")
    return f"{cells}: {'; '.join([*parts, f'corpora {listed(run.corpora)}'])}."


def _setting(run: Run, baseline: str, model: str, here: list[Group]) -> list[str]:
    found = []
    for earlier in forgotten(here):
        found.append(_lost(baseline, model, here, earlier))
        for later in learned_last(here):
            found += [line for line in (_least(here, earlier, later), _matched(run, here, earlier, later)) if line]
    return found


def _lost(baseline: str, model: str, here: list[Group], earlier: str) -> str:
    """How much plain training forgets, and the highest ratio."""
    metric = f"forgetting/{earlier}"
    family = [g for g in here if g.is_interleaving and g.values(metric)]
    arms = unique([*family[:1], *family[1:][-1:]]) or [g for g in here if g.values(metric)][:1]
    told = []
    for group in arms:
        share, n = group.interval(f"fraction_lost/{earlier}"), len(group.values(metric))
        lost = f"{with_interval(share, 0, 100, '%')} of what was learned, " if share else ""
        told.append(f"{_by(group)} {with_interval(group.interval(metric), 2, 1, 'nats')} ({lost}{some(n, 'seed')})")
    return f"{baseline}, {model}: of {earlier} is forgotten {'; '.join(told)}."


def _by(group: Group) -> str:
    if group.is_interleaving:
        return f"with {percent(group.ratio)} interleaving" if group.ratio else "without interleaving"
    return f"with {group.name}"


def _least(here: list[Group], earlier: str, later: str) -> str | None:
    """Who forgets least at no more loss on the later corpus than the highest ratio."""
    metric, loss = f"forgetting/{earlier}", f"final_loss/{later}"
    family = [g for g in here if g.is_interleaving and g.values(metric)]
    others = [g for g in here if not g.is_interleaving and g.values(metric)]
    if not family or not others:
        return None
    top = family[-1]
    cheap = [g for g in others if (dearer := g.minus(top, loss)) and dearer.mean <= 0]
    if not cheap:
        return f"No other arm ends at a loss on {later} as low as that of {_by(top).removeprefix('with ')}."
    best = min(cheap, key=lambda g: g.mean(metric))
    less = best.minus(top, metric)
    reference = plain_of(here)
    price = ""
    if reference and (dearer := best.minus(reference, loss)):
        size = with_interval(replace(dearer, mean=abs(dearer.mean)), 3, 1, "nats")
        price = f", at {size} {'more' if dearer.mean > 0 else 'less'} loss on {later} than plain training"
    return (
        f"At no more loss on {later} than {_by(top).removeprefix('with ')}, the best other arm is {best.name}: "
        f"it forgets {with_interval(best.interval(metric), 2, 1, 'nats')}, "
        f"{_more_or_less(less)} than that ratio{price}."
    )


def _more_or_less(difference: Interval | None) -> str:
    if difference is None:
        return "how much more or less"
    half = "" if difference.half is None else f" ± {number(difference.half, 2)}"
    sure = "" if difference.half is None or abs(difference.mean) > difference.half else " (not told apart)"
    return f"{number(abs(difference.mean), 2)}{half} {'more' if difference.mean > 0 else 'less'}{sure}"


def _matched(run: Run, here: list[Group], earlier: str, later: str) -> str | None:
    """How many arms beat interleaving at their own loss, and which."""
    cells = run.results[(run.results["baseline"] == here[0].baseline) & (run.results["model"] == here[0].model)]
    rows = [row for row in matched(cells).to_dict("records") if (row["earlier"], row["later"]) == (earlier, later)]
    if not rows or all(math.isnan(row["half"]) for row in rows):
        return None
    names = {(g.ratio, g.intervention): g.name for g in here}
    by: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row["mean"]):
        name = names[row["interleaving_ratio"], row["intervention"]]
        by.setdefault(verdict_of(row), []).append(name)
    better = by.get("forgets less", [])
    rest = ", ".join(f"{len(by[v])} {w}" for v, w in VERDICTS.items() if v in by)
    return (
        f"At matched loss on {later}, {listed(better) if better else 'no arm'} "
        f"forget{'s' if len(better) < 2 else ''} less than interleaving, with the whole interval"
        f"{f'; {rest}' if rest else ''} (of {some(len(rows), 'arm')})."
    )


VERDICTS = {"forgets more": "forget more", "not told apart": "cannot be told apart"}
