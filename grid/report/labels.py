"""Places for the names of points in a picture, so that none covers another."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

CHARACTER, LINE, MARKER = 6.2, 13.0, 7.0  # pixels
WIDEST = 1.9  # a wide screen over the width that the places are made for: crosses grow with it, names do not
STEPS = 30  # of a part of the line
ANGLES = [math.pi * step / 6 for step in range(12)]
REACHES = [15.0, 24.0, 36.0, 52.0, 70.0]
Box = tuple[float, float, float, float]


def place(
    points: np.ndarray, names: Sequence[str], spans: np.ndarray, line: np.ndarray, width: float, height: float
) -> list[tuple[float, float]]:
    """Where each name goes, in pixels right of and below its point: its middle.

    `points` are pixels from the lower left, float64 [n, 2]. Those with the most neighbours choose first, the nearest
    place that covers the least. `spans`, float64 [n, 2], is how far the cross through each reaches right and up;
    `line`, float64 [m, 2], is a line through the picture that names had better not lie on.
    """
    reaches = spans * [WIDEST, 1]
    crosses = [(x - right, y - 2, x + right, y + 2) for (x, y), (right, _) in zip(points, reaches, strict=True)]
    crosses += [(x - 2, y - up, x + 2, y + up) for (x, y), (_, up) in zip(points, reaches, strict=True)]
    markers = [(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in points.tolist()]
    crosses += [(x - 2, y - 2, x + 2, y + 2) for x, y in _between(line)]
    near = [np.hypot(*(points - point).T) for point in points]
    taken: list[Box] = []
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(names)
    for i in sorted(range(len(names)), key=lambda i: -int((near[i] < 60).sum())):
        half = CHARACTER * len(names[i]) / 2
        best = math.inf
        for reach in REACHES:
            for angle in ANGLES:
                right, up = (half + reach * 0.6) * math.cos(angle), reach * math.sin(angle)
                if abs(math.sin(angle)) > 0.9:
                    right = 0.0
                x, y = points[i, 0] + right, points[i, 1] + up
                box = (x - half, y - LINE / 2, x + half, y + LINE / 2)
                outside = max(0, -box[0]) + max(0, -box[1]) + max(0, box[2] - width) + max(0, box[3] - height)
                covered = sum(_common(box, other) for other in (*taken, *markers, *crosses))
                cost = 10 * covered + 100 * outside + reach
                if cost < best:
                    best, found[i], chosen = cost, (right, -up), box
        taken.append(chosen)
    return found


def _between(line: np.ndarray) -> list[tuple[float, float]]:
    """Points along a line, some pixels apart."""
    shares = np.linspace(0, 1, STEPS)[:, None]
    parts = [start + shares * (end - start) for start, end in pairwise(line)]
    return [(float(x), float(y)) for x, y in np.concatenate([np.empty((0, 2)), *parts])]


def _common(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, up)
