"""The tables of everything: arms with their intervals, and cells."""

from typing import NamedTuple

from grid.report.content import Column, Run, Section, Table, Value, about_intervals, measured, text, trimmed
from grid.report.groups import Group, percent


class Metric(NamedTuple):
    """A column of the results; `name` lacks the corpus in the lists below."""

    head: str
    name: str
    scale: float = 1
    digits: int = 3


MAIN = [
    Metric("final loss on {}, nats", "final_loss"),
    Metric("forgetting of {}, nats", "forgetting"),
    Metric("gain lost on {}, %", "fraction_lost", 100, 1),
    Metric("gap to combined on {}, nats", "gap_to_combined"),
]
CELL = [Metric("average loss, nats", "average_loss")]
FURTHER = [
    Metric("forgetting, bits per byte", "forgetting_bpb"),
    Metric("mean excess loss over the later stages, nats", "forgetting_area"),
    Metric("compute lost, %", "compute_equivalent", 100, 1),
    Metric("tokens to half the forgetting", "half_forgetting_tokens", 1, 0),
    Metric("exponent of forgetting", "forgetting_exponent", 1, 2),
    Metric("stability gap, nats", "stability_gap"),
    Metric("tokens to recover", "time_to_recover", 1, 0),
    Metric("saved in learning it again, %", "relearning_savings", 100, 1),
    Metric("plasticity, nats", "plasticity"),
    Metric("intransigence, nats", "intransigence"),
]


def section(run: Run) -> Section:
    lead = (
        "Every number of this page, and more. The heads sort; each table can be saved as CSV, with full precision "
        f"and half the intervals in columns of their own. {about_intervals(run)}"
    )
    main = [Metric(k.head.format(x), f"{k.name}/{x}", k.scale, k.digits) for k in MAIN for x in run.corpora]
    parts = [_arms(run, "arms", "Arms", [*main, *CELL], folded=False)]
    for i, corpus in enumerate(run.corpora, 1):
        further = [Metric(k.head, f"{k.name}/{corpus}", k.scale, k.digits) for k in FURTHER]
        parts.append(_arms(run, f"further-{i}", f"Further measures of {corpus}", further, folded=True))
    parts.append(_cells(run, [*main, *CELL]))
    return Section("tables", "Tables", lead, parts=[table for table in parts if table])


def _known(groups: list[Group], metrics: list[Metric]) -> list[Metric]:
    return [metric for metric in metrics if any(g.values(metric.name) for g in groups)]


def _arms(run: Run, key: str, title: str, metrics: list[Metric], folded: bool) -> Table | None:
    """The arms that have any of the metrics; None where there is none."""
    metrics = _known(run.groups, metrics)
    heads = [Column("arm", numeric=False), Column("order", numeric=False), Column("model", numeric=False)]
    heads += [Column("ratio"), Column("seeds"), *(Column(metric.head, with_half=True) for metric in metrics)]
    rows = []
    for group in (g for g in run.groups if _known([g], metrics)):
        seeds = len(group.finished)
        row = [Value(group.name), text(group.baseline), text(group.model)]
        row += [Value(percent(group.ratio), group.ratio)]
        row += [Value(str(seeds), seeds, half_text="" if seeds > 1 else "no interval")]
        rows.append([*row, *(measured(group.interval(m.name), m.digits, m.scale) for m in metrics)])
    note = "Means over the finished seeds of each arm. Definitions and papers: lethe/evaluation/forgetting.py."
    return trimmed(Table(key, title, note, heads, rows, folded)) if rows else None


def _cells(run: Run, metrics: list[Metric]) -> Table:
    metrics = _known(run.groups, metrics)
    heads = [Column("cell", numeric=False), Column("arm", numeric=False), Column("seed")]
    heads += [Column("status", numeric=False), Column("trained, s"), *(Column(metric.head) for metric in metrics)]
    arms = {cell: group for group in run.groups for cell in group.cells["cell"]}
    rows = [_cell(row, arms.get(row["cell"]), metrics) for row in run.results.to_dict("records")]
    note = "Every cell of the plan, as it ended. The other metrics of each stand in results.parquet."
    return Table("cells", "Cells", note, heads, rows, folded=True)


def _cell(row: dict, group: Group | None, metrics: list[Metric]) -> list[Value]:
    seed = row.get("seed")
    done = row["status"] == "finished"
    values = [_float(row.get(metric.name)) if done else None for metric in metrics]
    return [
        Value(str(row["cell"])),
        Value(group.name if group else "–"),
        Value("–") if seed is None or seed != seed else Value(f"{seed:.0f}", int(seed)),
        Value(str(row["status"]), note=row["reason"] if isinstance(row.get("reason"), str) else ""),
        measured(_float(row.get("train_seconds")), 1),
        *(measured(value, m.digits, m.scale) for value, m in zip(values, metrics, strict=True)),
    ]


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value == value else None
