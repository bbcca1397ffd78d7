"""Means and paired differences over seeds, each with its interval.

Two cells of one seed share initial weights and data order, so the difference between them varies far less than either:
compare arms by differences paired by seed.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of n values with half the width of its 95 % interval, None where n is 1: one value gives none."""

    mean: float
    half: float | None
    n: int


def mean_interval(values: Iterable[float | None]) -> Interval | None:
    """Mean of the values that are numbers, with Student's t interval (Gosset 1908); None if there are none.

    It takes the values as independent and near normal, as seeds are.
    """
    from scipy.special import stdtrit

    numbers = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=np.float64)
    n = len(numbers)
    if n < 2:
        return Interval(float(numbers[0]), None, 1) if n else None
    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return Interval(float(numbers.mean()), quantile * float(numbers.std(ddof=1)) / math.sqrt(n), n)


def paired_difference(
    values: Mapping[Hashable, float | None], reference: Mapping[Hashable, float | None]
) -> Interval | None:
    """Mean of `values` minus `reference` over the keys (seeds) at which both are numbers; None if there are none."""
    pairs = ((value, reference.get(seed)) for seed, value in values.items())
    return mean_interval(value - other for value, other in pairs if value is not None and other is not None)
