"""Power laws against scipy's own fit of all three parameters, known truths, and simulated errors."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from lethe.evaluation.fits import decline, fit_decline, fit_growth, growth

# Steps at which a stage of 293 steps is measured, in tokens.
TOKENS = np.array([0, 1, 2, 4, 8, 16, 32, 37, 73, 110, 146, 183, 220, 256, 293]) * 512.0
RATIOS = np.repeat([0.0, 0.01, 0.05, 0.1, 0.25], 3)
NOISE = np.random.default_rng(3)


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.3])
def test_growth_agrees_with_scipy(exponent: float):
    forgotten = growth(TOKENS, 0.6, 3000.0, exponent) + 0.02 * NOISE.normal(size=len(TOKENS))
    found = fit_growth(TOKENS, forgotten)

    def law(x, scale, shift, exponent):
        return scale * ((1 + x / shift) ** exponent - 1) / exponent

    best, covariance = curve_fit(law, TOKENS, forgotten, (0.6, 3000.0, exponent or 1e-3))
    assert (found.scale, found.shift, found.exponent) == pytest.approx(best, rel=1e-3, abs=1e-4)
    assert found.exponent_error == pytest.approx(np.sqrt(covariance[2, 2]), rel=1e-2)
    residual = forgotten - law(TOKENS, *best)
    assert found.r2 == pytest.approx(1 - residual @ residual / ((forgotten - forgotten.mean()) ** 2).sum())


def test_decline_agrees_with_scipy():
    forgotten = 1.9 * (1 + RATIOS / 0.01) ** -0.5 + 0.05 * NOISE.normal(size=len(RATIOS))
    found = fit_decline(RATIOS, forgotten)
    best, covariance = curve_fit(lambda x, a, s, b: a * (1 + x / s) ** -b, RATIOS, forgotten, (1.9, 0.01, 0.5))
    assert (found.scale, found.shift, found.exponent) == pytest.approx(best, rel=1e-3)
    assert found.exponent_error == pytest.approx(np.sqrt(covariance[2, 2]), rel=1e-2)
    assert found(RATIOS) == pytest.approx(decline(RATIOS, *best), abs=1e-4)


@pytest.mark.parametrize(("scale", "shift", "exponent"), [(0.5, 2e3, 0.2), (2.0, 8e3, -1.0), (0.4, 500.0, 0.6)])
def test_what_made_the_points_is_found(scale: float, shift: float, exponent: float):
    found = fit_growth(TOKENS, growth(TOKENS, scale, shift, exponent))
    assert (found.scale, found.shift, found.exponent) == pytest.approx((scale, shift, exponent), rel=1e-3)
    assert found.r2 == pytest.approx(1.0)
    assert found.exponent_error == pytest.approx(0.0, abs=1e-3)


def test_a_pure_power_of_tokens_is_the_slope_in_logarithms():
    slope, _ = np.polyfit(np.log(TOKENS[1:]), np.log(0.01 * TOKENS[1:] ** 0.4), 1)
    found = fit_growth(TOKENS, 0.01 * TOKENS**0.4)
    assert found.exponent == pytest.approx(slope, abs=0.02)
    assert found.exponent_error is not None


def test_the_error_is_the_spread_over_repetitions():
    truth = growth(TOKENS, 0.6, 3000.0, 0.3)
    fits = [fit_growth(TOKENS, truth + 0.02 * NOISE.normal(size=len(TOKENS))) for _ in range(120)]
    assert np.std([fit.exponent for fit in fits]) == pytest.approx(np.mean([f.exponent_error for f in fits]), rel=0.25)


def test_growth_begins_straight_and_has_the_logarithm_between():
    x = np.array([0.0, 1.0, 1e5])
    assert growth(x, 2.0, 1e3, 0.5)[:2] == pytest.approx([0, 2e-3], rel=1e-3)
    assert growth(x, 2.0, 1e3, 1e-12) == pytest.approx(growth(x, 2.0, 1e3, 1e-6), rel=1e-4)
    assert growth(x * 1e9, 2.0, 1e3, -0.5)[2] == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([0.0], [1.0]),
        ([0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]),  # two places tell nothing of a curve
        ([0.0, 1.0, 2.0], [0.0, 1.0, 1.5]),  # three parameters through three points have no error
        ([0.0, 1.0, 2.0] * 2, [0.0, 1.0, 1.5, 0.1, 1.1, 1.6]),  # nor, but for the seeds, at three places
        ([0.0, 1.0, 2.0, 3.0], [0.0, -0.1, -0.2, -0.3]),  # nothing is forgotten
    ],
)
def test_too_little_is_not_fitted(x: list[float], y: list[float]):
    assert fit_growth(np.array(x), np.array(y)) is None


def test_an_exponential_rise_is_beyond_the_range_and_has_no_error():
    found = fit_growth(TOKENS, 1 - np.exp(-TOKENS / 2e4))
    assert found.exponent == pytest.approx(-4.0, abs=1e-3)
    assert found.exponent_error is None
