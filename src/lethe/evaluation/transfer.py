"""Metrics that compare a cell with others of its model and seed, or take several corpora together.

Words, signs and units are those of `forgetting.py`. A metric is None where the other cell is not there.
"""

from lethe.evaluation.forgetting import final_loss, forgetting, learned_loss
from lethe.evaluation.history import History


def fraction_lost(history: History, corpus: str) -> float | None:
    """(L_A(AB) - L_A(A)) / (L_A(B) - L_A(A)): 0 nothing is lost, 1 as if A had never been seen.

    L_A(B) is the end of a first stage, at the same model and seed, on this cell's last corpus and not on A. After the
    share of pre-training progress lost of Bethune et al. 2025, with A never seen as its zero.
    """
    lost, learned, last = forgetting(history, corpus), learned_loss(history, corpus), history.stages[-1].mixture
    main = max(last, key=lambda name: last[name])
    never = [
        root.end(f"{history.unit}/{corpus}")
        for root in history.roots
        if main in root.mixture and corpus not in root.mixture
    ]
    if lost is None or learned is None or not never or never[0] <= learned:
        return None
    return lost / (never[0] - learned)


def intransigence(history: History, corpus: str) -> float | None:
    """L_B(AB) - L_B(A+B) when B's own stage ended (Chaudhry et al. 2018, eq. 6: joint minus sequential accuracy)."""
    return minus(learned_loss(history, corpus), _combined_loss(history, corpus))


def gap_to_combined(history: History, corpus: str) -> float | None:
    """L_X at the end minus that of training on everything at once, the usual upper bound."""
    return minus(final_loss(history, corpus), _combined_loss(history, corpus))


def _combined_loss(history: History, corpus: str) -> float | None:
    if len(history.stages) == 1:
        return None
    losses = [root.end(f"{history.unit}/{corpus}") for root in history.roots if set(root.mixture) == history.trained_on]
    return losses[0] if losses and len(history.trained_on) > 1 else None


def minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def backward_transfer(history: History) -> float | None:
    """Mean of -forgetting over the earlier corpora (Lopez-Paz & Ranzato 2017, BWT, for losses)."""
    return _mean([-lost for corpus in history.trained_on if (lost := forgetting(history, corpus)) is not None])


def forward_transfer(history: History) -> float | None:
    """Mean over later-learned corpora of L_B(init) - L_B(A): what A taught of B before B was seen.

    FWT of Lopez-Paz & Ranzato 2017, for losses; their init is an average over initialisations, here the cell's own.
    """
    gains = []
    for corpus in history.trained_on:
        if learned := history.learned_in(corpus):
            losses = history.losses(corpus)
            gains.append(float(losses[0] - losses[learned]))
    return _mean(gains)


def average_loss(history: History) -> float | None:
    """Mean of the final losses over the corpora that the cell trained on."""
    return _mean([final_loss(history, corpus) for corpus in history.trained_on])


def _mean(values: list[float]) -> float | None:
    """Summed in order of size, so that the order of a set does not show."""
    return sum(sorted(values)) / len(values) if values else None
