"""Units of work: rows that say what to do, a task that does one, and a way to run them all."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Row = dict[str, Any]
Task = Callable[[Row], Row]
Each = Callable[[Sequence[Row], Task], Iterator[Row]]
"""Runs a task on each unit and hands on what it says of them, as they are done, in any order."""


def in_turn(units: Sequence[Row], task: Task) -> Iterator[Row]:
    """One after the other, in this process; `ray_jobs.units.each_unit` is the other way."""
    return map(task, units)
