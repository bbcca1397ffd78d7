"""What was trained and what it cost: the tree of stages, its sharing, and the price of each intervention."""

from typing import Any

import numpy as np

from grid.report.content import Branch, Column, Run, Section, Table, Value, extra, measured, number, some, text
from grid.report.groups import unique
from lethe.evaluation.intervals import mean_interval


def section(run: Run) -> Section:
    plan = run.plan
    without = plan["tokens_without_sharing"] or 1
    lead = (
        f"Equal stages are trained once, however many cells share them: {some(plan['stages'], 'stage')} with "
        f"{plan['tokens']:,} tokens and about {_power(plan['flops'])} floating-point operations, in place of "
        f"{plan['tokens_without_sharing']:,} tokens: sharing saved {number(100 - 100 * plan['tokens'] / without, 0)} %."
    )
    tables = [table for table in (_costs(run), _speeds(run)) if table]
    return Section("stages", "Stages and their costs", lead, parts=[*tables], tree=_tree(run))


def _tree(run: Run) -> list[Branch]:
    """The stages from their roots, those that differ only in their seed as one."""
    children: dict[str | None, list[dict[str, Any]]] = {}
    for stage in run.plan["stage_list"]:
        children.setdefault(stage["parent"], []).append(stage)
    seconds = _seconds(run)

    def grow(parents: list[str | None]) -> list[Branch]:
        here = [stage for parent in parents for stage in children.get(parent, [])]
        branches = []
        for key in unique((stage["model"], stage["name"]) for stage in here):
            alike = [stage for stage in here if (stage["model"], stage["name"]) == key]
            root = parents == [None]
            branches.append(Branch(_about(alike, seconds, root), grow([stage["id"] for stage in alike])))
        return branches

    return grow([None])


def _about(alike: list[dict[str, Any]], seconds: dict[str, float], root: bool) -> str:
    """`food (tiny): 200,192 tokens, 12 s at each of 3 seeds, part of 69 cells`."""
    name = alike[0]["name"].split(" after ")[0] + (f" ({alike[0]['model']})" if root else "")
    seeds = len({stage["seed"] for stage in alike})
    tokens = " or ".join(unique(f"{stage['tokens']:,}" for stage in alike))
    took = [seconds[stage["id"]] for stage in alike if stage["id"] in seconds]
    time = f", {number(float(np.mean(took)), 1)} s" if took else ""
    each = f" at each of {seeds} seeds" if seeds > 1 else f" at seed {alike[0]['seed']}"
    return f"{name}: {tokens} tokens{time}{each}, part of {some(sum(stage['cells'] for stage in alike), 'cell')}"


def _seconds(run: Run) -> dict[str, float]:
    """Wall time of each stage by its id, as recorded when it was trained, evaluations included."""
    if run.curves.empty:
        return {}
    ends = run.curves.groupby(["cell", "stage"])["seconds"].max()
    found = {}
    for cell in run.plan["cell_list"]:
        for i, identity in enumerate([*cell.get("stages", []), *cell.get("branches", [])]):
            if (cell["cell"], i) in ends.index:
                found[identity] = float(ends[cell["cell"], i])
    return found


def _costs(run: Run) -> Table | None:
    """What each intervention needs and takes, with the measured time beside plain training's."""
    costs = run.plan.get("costs") or {}
    if set(costs) <= {"none", "interleaving"}:
        return None
    seconds = _seconds(run)
    later: dict[str | None, list[float]] = {}
    for cell in run.plan["cell_list"]:
        stages = cell.get("stages", [])
        if len(stages) > 1 and stages[-1] in seconds:
            label = "interleaving" if cell.get("interleaving_ratio") else cell.get("intervention")
            later.setdefault(label, []).append(seconds[stages[-1]])
    extras = [name for name in EXTRAS if name in ALWAYS or any(cost.get(name) for cost in costs.values())]
    rows = []
    for label, cost in costs.items():
        row = [Value(label), text(cost["needs"]), *(extra(cost[name]) for name in extras)]
        rows.append([*row, Value(BUDGET[cost["budget"]]), measured(mean_interval(later.get(label, [])), 1)])
    heads = [Column("intervention", numeric=False), Column("needs of the earlier corpora", numeric=False)]
    heads += [Column(EXTRAS[name]) for name in extras]
    heads += [Column("tokens of the later stage", numeric=False), Column("the later stage took, s", with_half=True)]
    note = (
        "Beside a plain stage of the same tokens; what is done once at the switch is left out of the FLOPs, not of "
        "the seconds. Seconds are wall time with evaluations, on whatever else the machine did: a rough guide."
    )
    return Table("costs", "What each intervention needs and costs", note, heads, rows)


EXTRAS = {
    "extra_weights": "extra weights in memory, %",
    "extra_rows": "extra rows a step, %",
    "extra_flops": "extra FLOPs, %",
    "growth": "weights the model grows by, %",
    "run_flops": "extra FLOPs to run it, %",
}
ALWAYS = ("extra_weights", "extra_rows", "extra_flops")
BUDGET = {"same": "unchanged", "replaces": "some are replaced by old text", "adds": "added on top"}


def _speeds(run: Run) -> Table | None:
    rows = []
    for model in unique(g.model for g in run.groups):
        of_model = [g for g in run.groups if g.model == model]
        size = run.plan["models"].get(model, {})
        row = [Value(model), _count(size.get("parameters")), _count(size.get("flops_per_token"))]
        for metric, digits, scale in (("train_seconds", 1, 1), ("tokens_per_second", 0, 1), ("mfu", 1, 100)):
            mean = mean_interval(value for g in of_model for value in g.values(metric))
            row.append(measured(mean, digits, scale))
        rows.append(row)
    heads = [Column("model", numeric=False), Column("parameters"), Column("FLOPs a token")]
    heads += [Column("seconds a cell", with_half=True), Column("tokens a second", with_half=True)]
    heads += [Column("MFU, %", with_half=True)]
    if not any(row[3].number for row in rows):
        return None
    note = "Over all cells, ± half a 95 % interval. MFU (share of the peak FLOP/s) is known for known devices only."
    return Table("speeds", "Models and their speed", note, heads, rows)


def _power(value: float) -> str:
    """`3.5 × 10¹²`."""
    factor, _, exponent = f"{value:.1e}".partition("e")
    return f"{factor} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _count(value: float | None) -> Value:
    return Value("–") if value is None else Value(f"{value:,}", value)
