"""Power laws of forgetting, with their errors: against tokens trained on since, and against the interleaving ratio.

Least squares with equal weights. The standard errors come from the curvature at the
optimum and take the points as independent. Points of one training run are not: fit each seed, and take the interval of
its exponents over seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LOWEST, HIGHEST = -4.0, 4.0  # of an exponent
STARTS, EDGE = 5, 1e-3
Law = Callable[..., np.ndarray]


@dataclass(frozen=True)
class PowerLaw:
    """The fitted parameters of a law, the standard error of its exponent, and R^2.

    The error is None where the points do not tell the exponent: it is at the edge of its range, or anywhere in it.

    `law(x, scale, shift, exponent)` is the curve, x float64 [n] -> float64 [n].
    """

    law: Law
    scale: float
    shift: float
    exponent: float
    exponent_error: float | None
    r2: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.law(np.asarray(x, dtype=np.float64), self.scale, self.shift, self.exponent)


def growth(x: np.ndarray, scale: float, shift: float, exponent: float) -> np.ndarray:
    """scale ((1 + x / shift)^exponent - 1) / exponent: 0 at 0, first linear, then a power of x.

    The shifted power law of Kalajdzievski 2024 without an offset, in Box and Cox's form, in which an exponent of 0 is
    scale log(1 + x / shift), and one below 0 levels off at scale / |exponent|.
    """
    logs = np.log1p(x / shift)
    return scale * (np.expm1(exponent * logs) / exponent if abs(exponent) > 1e-9 else logs)


def decline(x: np.ndarray, scale: float, shift: float, exponent: float) -> np.ndarray:
    """scale (1 + x / shift)^-exponent: scale at 0, then a falling power of x."""
    return scale * (1 + x / shift) ** -exponent


def fit_growth(tokens: np.ndarray, forgetting: np.ndarray) -> PowerLaw | None:
    """Forgetting (float64 [n]) against tokens since the switch (float64 [n]); None without any, or with few points."""
    return _fit(growth, tokens, forgetting, (LOWEST, HIGHEST)) if len(forgetting) and forgetting[-1] > 0 else None


def fit_decline(ratios: np.ndarray, forgetting: np.ndarray) -> PowerLaw | None:
    """Forgetting (float64 [n], of all seeds) against the interleaving ratio (float64 [n]); None for too few points."""
    return _fit(decline, ratios, forgetting, (0.0, HIGHEST)) if len(forgetting) and forgetting.max() > 0 else None


def _fit(law: Law, x: np.ndarray, y: np.ndarray, exponents: tuple[float, float]) -> PowerLaw | None:
    """The best of several starts, for the sum of squares may have more than one valley.

    The scale is linear and has its best value for any shift and exponent, so only these two are searched (variable
    projection, Golub & Pereyra 1973), the shift as its log.
    """
    from scipy.optimize import least_squares

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(np.unique(x)) < 4:  # as many as there are parameters pass through three
        return None

    def scale(point: np.ndarray) -> float:
        unit = law(x, 1.0, np.exp(point[0]), point[1])
        return max(float(unit @ y / (unit @ unit)), 0.0)

    def residuals(point: np.ndarray) -> np.ndarray:
        return law(x, scale(point), np.exp(point[0]), point[1]) - y

    low, high = np.log([x[x > 0].min() / 100, x.max() * 100])
    lowest, highest = np.array([low, exponents[0]]), np.array([high, exponents[1]])
    starts = [(start, max(0.1, exponents[0])) for start in np.linspace(low, high, STARTS + 2)[1:-1]]
    found = [least_squares(residuals, start, bounds=(lowest, highest)) for start in starts]
    best = min(found, key=lambda descent: descent.cost)
    at_edge = (best.x - lowest < EDGE) | (highest - best.x < EDGE)
    squares, total = 2 * float(best.cost), float(((y - y.mean()) ** 2).sum())
    return PowerLaw(
        law,
        scale=scale(best.x),
        shift=float(np.exp(best.x[0])),
        exponent=float(best.x[1]),
        exponent_error=_error(best.jac, squares, at_edge),
        r2=1 - squares / total if total else 1.0,
    )


def _error(jacobian: np.ndarray, squares: float, at_edge: np.ndarray) -> float | None:
    """Standard error of the exponent; None at the edge of its range, or if it is wider than that.

    `jacobian` is float64 [n, 2], of the residuals by log shift and exponent, `at_edge` bool [2] for these two. A shift
    at its edge counts as given.
    """
    free = jacobian[:, [1] if at_edge[0] else [0, 1]]
    variance = squares / (len(free) - 1 - free.shape[1])
    error = float(np.sqrt(variance * np.linalg.pinv(free.T @ free)[-1, -1]))
    return None if at_edge[1] or error > HIGHEST - LOWEST else error
