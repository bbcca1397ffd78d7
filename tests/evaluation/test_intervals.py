import math

import numpy as np
import pytest
from scipy import stats

from lethe.evaluation.intervals import mean_interval, paired_difference

VALUES = {0: 1.37, 1: 1.41, 2: 1.52, 3: 1.29}
REFERENCE = {0: 0.66, 1: 0.75, 2: 0.82, 3: 0.70}


def test_the_interval_is_students():
    found = mean_interval(VALUES.values())
    low, high = stats.ttest_1samp(list(VALUES.values()), 0).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.n == 4


def test_three_seeds_by_hand():
    """Mean 1.4333, sd .07767, t of 2 degrees of freedom 4.3027."""
    found = mean_interval([1.37, 1.41, 1.52])
    assert found.mean == pytest.approx(1.43333, abs=1e-5)
    assert found.half == pytest.approx(4.3027 * 0.07767 / math.sqrt(3), abs=1e-3)


def test_a_difference_is_paired_by_seed_whatever_the_order():
    found = paired_difference(VALUES, dict(reversed(REFERENCE.items())))
    test = stats.ttest_rel(list(VALUES.values()), list(REFERENCE.values()))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(test.confidence_interval(0.95)))
    unpaired = stats.ttest_ind(list(VALUES.values()), list(REFERENCE.values())).confidence_interval(0.95)
    assert found.half < (unpaired[1] - unpaired[0]) / 2


def test_only_seeds_of_both_count():
    found = paired_difference(VALUES | {4: 9.0, 5: None, 2: math.nan}, {1: 0.75, 0: 0.66, 2: 0.82, 7: 1.0, 5: 2.0})
    assert found.n == 2
    assert found.mean == pytest.approx((0.71 + 0.66) / 2)


def test_one_value_has_a_mean_and_no_interval_and_none_has_neither():
    assert mean_interval([2.5, None, math.nan]).half is None
    assert mean_interval([2.5, None]).mean == 2.5
    assert mean_interval([None, math.inf]) is None
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_it_covers_19_of_20():
    random = np.random.default_rng(0)
    for n in (2, 3, 6, 40):
        found = [mean_interval(sample) for sample in random.normal(size=(4000, n))]
        assert np.mean([abs(one.mean) <= one.half for one in found]) == pytest.approx(0.95, abs=0.012)
