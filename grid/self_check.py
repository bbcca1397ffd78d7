"""The self-check: what must be true of forgetting wherever it is measured, as pure functions of what was measured.

A check is an assertion with bounds, a value at every seed, and a verdict: `held` where the whole 95 % interval of the
mean over seeds (Student's t) lies within the bounds, `failed` where it lies outside, `undecided` where it holds a
bound. What must agree bit for bit has no interval. What is trained for it stands in `self_check_stages.py`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from grid.self_check_assertions import ASSERTIONS, EXACT, SIZE, Assertion, Seed, Strength
from lethe.evaluation.intervals import Interval, mean_interval
from lethe.progress import aligned

Verdict = Literal["held", "failed", "undecided"]
MUST_HOLD = ("exact", "near-certain")


@dataclass(frozen=True)
class Same:
    """Tensors that must agree: how many were compared, whether all bits agree, and the largest difference."""

    n: int
    equal: bool
    largest: float


@dataclass(frozen=True)
class Check:
    """A checked assertion. `interval` is None where there is none; `why` says in a sentence why it is not held."""

    name: str
    assertion: str
    strength: Strength
    n: int
    value: float | None
    interval: tuple[float, float] | None
    unit: str
    verdict: Verdict
    why: str = ""


def checks(seeds: Sequence[Seed], same: Mapping[str, Same]) -> list[Check]:
    """Every check, in the order of its number; `same` holds what was compared bit for bit, by the names of EXACT."""
    found = [check(assertion, seeds) for assertion in ASSERTIONS]
    found += [Check(*SIZE, 0, None, None, "nats", "undecided", "it takes models of a size that needs a GPU")]
    found += [check_same(name, text, same[name]) for name, text in EXACT.items()]
    return sorted(found, key=lambda c: (int("".join(filter(str.isdigit, c.name.split()[0]))), c.name))


def check(assertion: Assertion, seeds: Sequence[Seed]) -> Check:
    """Judge an assertion by its values at all seeds; undecided where it is undefined at one of them."""
    values = [assertion.value(seed) for seed in seeds]
    mean = mean_interval(values)
    verdict, why = _judge(assertion, mean, sum(value is None for value in values), len(values))
    interval = None if mean is None or mean.half is None else (mean.mean - mean.half, mean.mean + mean.half)
    n, value = (mean.n, mean.mean) if mean else (0, None)
    return Check(assertion.name, assertion.text, assertion.strength, n, value, interval, assertion.unit, verdict, why)


def _judge(assertion: Assertion, mean: Interval | None, missing: int, seeds: int) -> tuple[Verdict, str]:
    if missing or mean is None:
        return "undecided", f"at {missing} of {seeds} seeds {assertion.undefined}"
    if mean.half is None:
        return "undecided", "one seed gives no interval"
    low, high, above, below = mean.mean - mean.half, mean.mean + mean.half, assertion.above, assertion.below
    if (low > above and high < below) or (assertion.either and high < above):
        return "held", ""
    if not assertion.either and high <= above:
        return "failed", f"the whole interval is at or below {above:g}"
    if not assertion.either and low >= below:
        return "failed", f"the whole interval is at or above {below:g}"
    bound = above if math.isfinite(above) and low <= above else below
    return "undecided", f"the interval holds the bound {bound:g}; more seeds or tokens would decide"


def check_same(name: str, text: str, same: Same) -> Check:
    """Judge what must agree bit for bit."""
    why = "" if same.equal else f"of {same.n} tensors some differ, by up to {same.largest:g}"
    verdict: Verdict = "held" if same.equal else "failed"
    return Check(name, text, "exact", same.n, same.largest, None, "largest difference", verdict, why)


def result(found: Sequence[Check], source: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The checks and their counts, as JSON."""
    counts = {verdict: sum(c.verdict == verdict for c in found) for verdict in ("held", "failed", "undecided")}
    listed = [asdict(c) | {"interval": list(c.interval) if c.interval else None} for c in found]
    return {**counts, "checks": listed, "source": source, "settings": dict(settings)}


def is_ok(found: Iterable[Check]) -> bool:
    """Whether nothing failed that must hold."""
    return not any(c.verdict == "failed" and c.strength in MUST_HOLD for c in found)


def table(found: Sequence[Check]) -> str:
    """The checks for the terminal, and under them why those are not held that are not."""
    rows = [["check", "strength", "n", "value", "95 % interval", "unit", "verdict", "assertion"]]
    for c in found:
        value = "" if c.value is None else f"{c.value:.3g}" if c.strength == "exact" else f"{c.value:+.3f}"
        interval = f"{c.interval[0]:+.3f} to {c.interval[1]:+.3f}" if c.interval else ""
        rows.append([c.name, c.strength, str(c.n), value, interval, c.unit, c.verdict, c.assertion])
    lines = [*aligned(rows), *(f"{c.name}: {c.verdict}: {c.why}" for c in found if c.why)]
    counts = (f"{sum(c.verdict == v for c in found)} {v}" for v in ("held", "failed", "undecided"))
    return "\n".join([*lines, ", ".join(counts)])
