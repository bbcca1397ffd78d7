"""Every metric of a cell, each one function of its curves. One sign convention: a name is positive when it happens.

Losses are nats per token on held-out text, L_X(AB) the loss on X of the model trained on A, then B. X is *learned* in
the first stage in which it has the largest weight; stages after that are *later*. A metric is None where undefined.

To add a metric, write a function and name it in CORPUS_METRICS (one value a corpus) or CELL_METRICS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StageCurve:
    """One stage as measured: `points[name]` is float64 [marks, 2], tokens since its start against the value.

    `peak_flops` is the peak FLOP/s of all devices that trained it together, None for unknown ones.
    """

    mixture: dict[str, float]
    tokens: int
    seconds: float
    points: dict[str, np.ndarray]
    flops_per_token: int = 0
    peak_flops: float | None = None

    def start(self, name: str) -> float:
        return float(self.points[name][0, 1])

    def end(self, name: str) -> float:
        return float(self.points[name][-1, 1])


@dataclass(frozen=True)
class History:
    """The stages of a cell in order, and the first stages of all cells of the same model and seed as references."""

    stages: Sequence[StageCurve]
    roots: Sequence[StageCurve] = ()

    def learned_in(self, corpus: str) -> int | None:
        """Index of the stage in which the corpus was learned."""
        for i, stage in enumerate(self.stages):
            if stage.mixture.get(corpus, 0) == max(stage.mixture.values()):
                return i
        return None

    def later(self, corpus: str) -> Sequence[StageCurve]:
        """The stages after the one in which the corpus was learned; none for a corpus never learned."""
        learned = self.learned_in(corpus)
        return () if learned is None else self.stages[learned + 1 :]

    @property
    def trained_on(self) -> set[str]:
        return {corpus for stage in self.stages for corpus in stage.mixture}


Metric = Callable[[History, str], float | None]


def final_loss(history: History, corpus: str) -> float | None:
    """L_X at the end of the sequence."""
    return history.stages[-1].end(f"loss/{corpus}")


def learned_loss(history: History, corpus: str) -> float | None:
    """L_X when X's own stage ended."""
    learned = history.learned_in(corpus)
    return None if learned is None else history.stages[learned].end(f"loss/{corpus}")


def forgetting(history: History, corpus: str) -> float | None:
    """L_A(AB) - L_A(A): backward transfer (Lopez-Paz & Ranzato 2017) with the sign turned, for losses."""
    return _rise(history, f"loss/{corpus}", corpus)


def forgetting_bpb(history: History, corpus: str) -> float | None:
    """`forgetting` in bits per byte of text, which can be compared across tokenizers."""
    return _rise(history, f"bpb/{corpus}", corpus)


def _rise(history: History, name: str, corpus: str) -> float | None:
    later = history.later(corpus)
    learned = history.learned_in(corpus)
    return later[-1].end(name) - history.stages[learned].end(name) if later and learned is not None else None


def fraction_lost(history: History, corpus: str) -> float | None:
    """(L_A(AB) - L_A(A)) / (L_A(B) - L_A(A)): 0 nothing is lost, 1 as if A had never been seen.

    L_A(B) is the end of a first stage, at the same model and seed, on this cell's last corpus and not on A.
    """
    lost, learned, last = forgetting(history, corpus), learned_loss(history, corpus), history.stages[-1].mixture
    main = max(last, key=lambda name: last[name])
    never = [
        root.end(f"loss/{corpus}") for root in history.roots if main in root.mixture and corpus not in root.mixture
    ]
    if lost is None or learned is None or not never or never[0] <= learned:
        return None
    return lost / (never[0] - learned)


def forgetting_area(history: History, corpus: str) -> float | None:
    """Mean of L_A(t) - L_A(A) over the tokens of the later stages (trapezoids between marks)."""
    later, learned = history.later(corpus), learned_loss(history, corpus)
    if not later or learned is None:
        return None
    areas = [np.trapezoid(s.points[f"loss/{corpus}"][:, 1] - learned, s.points[f"loss/{corpus}"][:, 0]) for s in later]
    spans = [s.points[f"loss/{corpus}"][-1, 0] for s in later]
    return float(sum(areas) / sum(spans)) if sum(spans) else None


def plasticity(history: History, corpus: str) -> float | None:
    """L_B(A) - L_B(AB): what the stage on B learned of B, from where it began."""
    learned = history.learned_in(corpus)
    if learned is None:
        return None
    return history.stages[learned].start(f"loss/{corpus}") - history.stages[learned].end(f"loss/{corpus}")


def intransigence(history: History, corpus: str) -> float | None:
    """L_B(AB) - L_B(A+B) when B's own stage ended (Chaudhry et al. 2018, joint minus sequential)."""
    return _minus(learned_loss(history, corpus), _combined_loss(history, corpus))


def gap_to_combined(history: History, corpus: str) -> float | None:
    """L_X at the end minus that of training on everything at once, the usual upper bound."""
    return _minus(final_loss(history, corpus), _combined_loss(history, corpus))


def _combined_loss(history: History, corpus: str) -> float | None:
    if len(history.stages) == 1:
        return None
    losses = [root.end(f"loss/{corpus}") for root in history.roots if set(root.mixture) == history.trained_on]
    return losses[0] if losses and len(history.trained_on) > 1 else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def backward_transfer(history: History) -> float | None:
    """Mean of -forgetting over the earlier corpora (Lopez-Paz & Ranzato 2017, eq. 3, for losses)."""
    lost = [value for corpus in sorted(history.trained_on) if (value := forgetting(history, corpus)) is not None]
    return -sum(lost) / len(lost) if lost else None


def forward_transfer(history: History) -> float | None:
    """Mean over later-learned corpora of L_B(init) - L_B(A): what A taught of B before B was seen."""
    gains = [
        history.stages[0].start(f"loss/{corpus}") - history.stages[learned].start(f"loss/{corpus}")
        for corpus in sorted(history.trained_on)
        if (learned := history.learned_in(corpus))
    ]
    return sum(gains) / len(gains) if gains else None


def average_loss(history: History) -> float | None:
    """Mean of the final losses over the corpora that the cell trained on."""
    losses = [history.stages[-1].end(f"loss/{corpus}") for corpus in sorted(history.trained_on)]
    return sum(losses) / len(losses)


def tokens(history: History) -> float | None:
    """Tokens trained on over the sequence, shared stages counted."""
    return float(sum(stage.tokens for stage in history.stages))


def train_seconds(history: History) -> float | None:
    """Wall time of the stages as recorded when they were trained, evaluations included."""
    return sum(stage.seconds for stage in history.stages)


def tokens_per_second(history: History) -> float | None:
    """`tokens` over `train_seconds`."""
    seconds = sum(stage.seconds for stage in history.stages)
    return sum(stage.tokens for stage in history.stages) / seconds if seconds else None


def mfu(history: History) -> float | None:
    """Model FLOPs utilisation (Chowdhery et al. 2022, appendix B): FLOPs of the tokens over what the devices could do.

    That is `tokens_per_second` x FLOPs a token / peak FLOP/s where all stages ran on equal devices; None if any ran on
    an unknown one. Evaluations count as time, and what an intervention computes besides does not count as FLOPs.
    """
    could = 0.0
    for stage in history.stages:
        if stage.peak_flops is None:
            return None
        could += stage.seconds * stage.peak_flops
    return sum(stage.tokens * stage.flops_per_token for stage in history.stages) / could if could else None


CORPUS_METRICS: dict[str, Metric] = {
    f.__name__: f
    for f in (
        final_loss,
        learned_loss,
        forgetting,
        forgetting_bpb,
        fraction_lost,
        forgetting_area,
        plasticity,
        intransigence,
        gap_to_combined,
    )
}
CELL_METRICS: dict[str, Callable[[History], float | None]] = {
    f.__name__: f
    for f in (
        backward_transfer,
        forward_transfer,
        average_loss,
        tokens,
        train_seconds,
        tokens_per_second,
        mfu,
    )
}


def metrics(history: History, corpora: Sequence[str]) -> dict[str, float | None]:
    """Every metric of a cell, by its name in results and MLflow: `NAME/CORPUS`, or `NAME` for the cell's own."""
    values = {
        f"{name}/{corpus}": metric(history, corpus) for name, metric in CORPUS_METRICS.items() for corpus in corpora
    }
    return values | {name: metric(history) for name, metric in CELL_METRICS.items()}
