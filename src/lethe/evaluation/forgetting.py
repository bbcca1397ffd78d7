"""What a cell lost and kept of a corpus, each metric one function of its own curves.

One sign convention: a name is positive when it happens. L_X(AB) is the held-out loss on X of the model trained on A,
then B. X is *learned* in the first stage in which it has the largest weight; stages after that are *later*. A metric is
None where undefined. Those in units of loss are computed in nats per token and, from the curves in bits per byte, once
more (`NAME_bpb/X`), which can be compared across tokenizers; shares and tokens are the same in both. Between two marks
a curve is taken as straight. What needs other cells, or several corpora, stands in `transfer.py`.
"""

import numpy as np

from lethe.evaluation.fits import PowerLaw, fit_growth
from lethe.evaluation.history import History


def final_loss(history: History, corpus: str) -> float:
    """L_X at the end of the sequence."""
    return float(history.losses(corpus)[-1])


def learned_loss(history: History, corpus: str) -> float | None:
    """L_X when X's own stage ended."""
    learned = history.learned_in(corpus)
    return None if learned is None else float(history.losses(corpus)[learned + 1])


def forgetting(history: History, corpus: str) -> float | None:
    """L_A(AB) - L_A(A): minus the backward transfer of Lopez-Paz & Ranzato 2017 (GEM), for losses.

    Below 0 where the later stages still taught A something.
    """
    learned = history.learned_in(corpus)
    if learned is None or learned + 1 == len(history.stages):
        return None
    losses = history.losses(corpus)
    return float(losses[-1] - losses[learned + 1])


def forgetting_best(history: History, corpus: str) -> float | None:
    """Loss at the end minus the lowest after any earlier stage (Chaudhry et al. 2018, eq. 3, for losses).

    Differs from `forgetting` only after three stages and more.
    """
    if forgetting(history, corpus) is None:
        return None
    losses = history.losses(corpus)
    return float(losses[-1] - losses[1:-1].min())


def forgetting_area(history: History, corpus: str) -> float | None:
    """Mean of L_A(t) - L_A(A) over the tokens of the later stages: forgetting averaged over time."""
    curve = _forgotten(history, corpus)
    if curve is None or not curve[-1, 0]:
        return None
    return float(np.trapezoid(curve[:, 1], curve[:, 0]) / curve[-1, 0])


def half_forgetting_tokens(history: History, corpus: str) -> float | None:
    """Tokens of the later stages after which half of the final forgetting is first reached; None without any."""
    curve = _forgotten(history, corpus)
    if curve is None or curve[-1, 1] <= 0:
        return None
    return first_at_or_below(curve * [1, -1], -curve[-1, 1] / 2)


def compute_equivalent(history: History, corpus: str) -> float | None:
    """Share of the tokens of A's own stage whose effect is lost: 1 - c, after Marek 2026 ("compute multiplier").

    c is the share of that stage after which L_A had first come down to L_A(AB). 0 where nothing is lost, 1 where the
    model is no better on A than before that stage. The rate decays at a stage's end, and with it the loss falls
    steeply: a little forgetting costs much of it. All tokens of one stage take equal FLOPs, so the share of its tokens
    is that of its compute, whatever its model has grown to. What later stages compute does not enter.
    """
    lost = forgetting(history, corpus)
    if lost is None or lost <= 0:
        return None if lost is None else 0.0
    own = history.own(corpus)
    reached = first_at_or_below(own, history.losses(corpus)[-1])  # it was: at its end it was lower
    return None if reached is None or not own[-1, 0] else float(1 - reached / own[-1, 0])


def stability_gap(history: History, corpus: str) -> float | None:
    """How far L_A rose above its end within the first later stage, whose end may be better (De Lange et al. 2023)."""
    learned = history.learned_in(corpus)
    if learned is None or learned + 1 == len(history.stages):
        return None
    values = history.stages[learned + 1].points[f"{history.unit}/{corpus}"][:, 1]
    return float(values.max() - values[-1])


def time_to_recover(history: History, corpus: str) -> float | None:
    """Tokens of the later stages until L_A, past its peak, is back at L_A(A) (after De Lange et al. 2023).

    0 where it never rose above, None where it does not come back.
    """
    curve = _forgotten(history, corpus)
    if curve is None:
        return None
    peak = int(curve[:, 1].argmax())
    return 0.0 if curve[peak, 1] <= 0 else first_at_or_below(curve[peak:], 0.0)


def relearning_savings(history: History, corpus: str) -> float | None:
    """1 - tokens of A to be back at L_A(A) / tokens that A took at first (savings, Ebbinghaus 1885).

    The tokens are those of a side branch that trains on A again after the last stage. Near 1 where A was only out of
    reach, 0 where nothing of it was left. None without such a branch, and where the branch is too short to come back:
    then the savings are below 1 - its tokens / those of A's own stage.
    """
    branch, level = history.branches.get(corpus), learned_loss(history, corpus)
    if branch is None or level is None:
        return None
    again = first_at_or_below(branch.points[f"{history.unit}/{corpus}"], level)
    first = first_at_or_below(history.own(corpus), level)
    return None if again is None or not first else 1 - again / first


def plasticity(history: History, corpus: str) -> float | None:
    """L_B(A) - L_B(AB): what the stage on B learned of B, from where it began."""
    learned = history.learned_in(corpus)
    if learned is None:
        return None
    losses = history.losses(corpus)
    return float(losses[learned] - losses[learned + 1])


def forgetting_exponent(history: History, corpus: str) -> float | None:
    """Exponent b of `fits.growth` over the later stages: below 0 forgetting levels off, at 0 it grows as a logarithm.

    None where no power law fits: at the edge of its range, as where a rise is followed by a recovery.
    """
    law = forgetting_law(history, corpus)
    return None if law is None or law.exponent_error is None else law.exponent


def forgetting_exponent_error(history: History, corpus: str) -> float | None:
    """Standard error of `forgetting_exponent` from this curve alone; between seeds it varies more."""
    law = forgetting_law(history, corpus)
    return None if law is None else law.exponent_error


def forgetting_fit_r2(history: History, corpus: str) -> float | None:
    """Share of the variance of forgetting over the later marks that its power law explains."""
    law = forgetting_law(history, corpus)
    return None if law is None else law.r2


def forgetting_law(history: History, corpus: str) -> PowerLaw | None:
    """The power law of forgetting against the tokens of the later stages; None where nothing is forgotten."""
    curve = _forgotten(history, corpus)
    return None if curve is None else fit_growth(curve[:, 0], curve[:, 1])


def first_at_or_below(curve: np.ndarray, level: float) -> float | None:
    """Tokens at which a curve (float64 [marks, 2], tokens and value) first is at or below `level`; None if never."""
    below = np.flatnonzero(curve[:, 1] <= level)
    if not below.size:
        return None
    if below[0] == 0:
        return float(curve[0, 0])
    (x0, y0), (x1, y1) = curve[below[0] - 1 : below[0] + 1]
    return float(x0 + (x1 - x0) * (y0 - level) / (y0 - y1))


def _forgotten(history: History, corpus: str) -> np.ndarray | None:
    """L_A(t) - L_A(A) over the later stages: float64 [marks, 2], tokens and nats; None without later stages."""
    curve, learned = history.after(corpus), learned_loss(history, corpus)
    return curve - [0, learned] if len(curve) and learned is not None else None
