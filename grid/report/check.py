"""The self-check beside the grid: what must be true of forgetting wherever it is measured, and whether it was."""

from typing import Any

from grid.report.content import Column, Run, Section, Table, Value, number, text

COMMAND = "python -m ray_jobs.self_check"
MARKS = {"held": "✓ held", "failed": "✗ failed", "undecided": "? undecided"}


def section(run: Run) -> Section:
    if run.check is None:
        lead = (
            f"There is no self_check.json beside this grid. {COMMAND} makes it: the science checked in minutes, each "
            "assertion with its interval and its verdict."
        )
        return Section("self-check", "Self-check", lead)
    check = run.check
    lead = (
        f"What must be true of forgetting wherever it is measured, tried on {check.get('source', 'its own grid')}: "
        f"{check.get('held', 0)} held, {check.get('failed', 0)} failed, {check.get('undecided', 0)} undecided. "
        "A near-certain assertion that failed would say that something is broken here; an undecided one needs more "
        "seeds or a larger model."
    )
    heads = [Column("check", numeric=False), Column("assertion", numeric=False), Column("verdict", numeric=False)]
    heads += [Column("value"), Column("unit", numeric=False), Column("n"), Column("strength", numeric=False)]
    rows = [_row(entry) for entry in check.get("checks", [])]
    note = "In brackets 95 % intervals over seeds; a check without one is exact, or had one seed."
    return Section("self-check", "Self-check", lead, parts=[Table("checks", "The checks", note, heads, rows)])


def _row(entry: dict[str, Any]) -> list[Value]:
    value, interval, verdict = entry.get("value"), entry.get("interval"), entry.get("verdict")
    shown = Value("–") if value is None else Value(number(value, 3), value)
    if interval:
        bounds = f"[{number(interval[0], 3)}, {number(interval[1], 3)}]"
        shown = Value(shown.text, shown.number, half_text=bounds)
    n = entry.get("n")
    return [
        text(entry.get("name")),
        text(entry.get("assertion")),
        Value(MARKS.get(str(verdict), str(verdict)), note=str(entry.get("why") or "")),
        shown,
        text(entry.get("unit")),
        Value("–") if n is None else Value(str(n), n),
        text(entry.get("strength")),
    ]
