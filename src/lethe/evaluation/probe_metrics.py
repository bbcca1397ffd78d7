"""What a cell knew of a corpus and what it lost of that, each metric one function of the curves of its probes.

A group is a type and a form as in the names of curves, `TYPE/FORM`: `entity/memorised`. *Learned* and *later* are as in
`forgetting.py`; of what is neutral, *learned* is when the first stage ended, so a loss there is one of the language in
general. A metric is None where it was not measured. To add one, write a function and name it below.
"""

import math
from collections.abc import Callable, Sequence

from lethe.evaluation.history import History
from lethe.evaluation.items import NEUTRAL

CHANCE = 0.25
STANDARD_ERRORS = 2.0
ProbeMetric = Callable[[History, str, str], float | None]


def probe_facts(history: History, corpus: str, group: str) -> float | None:
    """How many facts were asked for."""
    return _end(history, "probe_facts", corpus, group)


def probe_accuracy(history: History, corpus: str, group: str) -> float | None:
    """Share right at the end of the sequence; chance is .25."""
    return _end(history, "probe_accuracy", corpus, group)


def probe_accuracy_learned(history: History, corpus: str, group: str) -> float | None:
    """Share right when the corpus's own stage ended."""
    return _learned(history, "probe_accuracy", corpus, group)


def probe_accuracy_lost(history: History, corpus: str, group: str) -> float | None:
    """`probe_accuracy_learned` minus `probe_accuracy`; None too without a later stage, or where it does not count."""
    return _lost(history, "probe_accuracy", corpus, group)


def probe_accuracy_pmi(history: History, corpus: str, group: str) -> float | None:
    """As `probe_accuracy`, by the calibrated score: the guard against a bias for length."""
    return _end(history, "probe_accuracy_pmi", corpus, group)


def probe_accuracy_pmi_learned(history: History, corpus: str, group: str) -> float | None:
    """As `probe_accuracy_learned`, by the calibrated score."""
    return _learned(history, "probe_accuracy_pmi", corpus, group)


def probe_margin(history: History, corpus: str, group: str) -> float | None:
    """Mean score of the answer minus that of the best distractor at the end of the sequence, nats a token."""
    return _end(history, "probe_margin", corpus, group)


def probe_margin_learned(history: History, corpus: str, group: str) -> float | None:
    """The same when the corpus's own stage ended."""
    return _learned(history, "probe_margin", corpus, group)


def probe_margin_lost(history: History, corpus: str, group: str) -> float | None:
    """`probe_margin_learned` minus `probe_margin`; None too without a later stage, or where it does not count."""
    return _lost(history, "probe_margin", corpus, group)


def probe_counts(history: History, corpus: str, group: str) -> float | None:
    """1 where the accuracy learned is above chance by two standard errors of chance, sqrt(.25 .75 / facts); else 0.

    What was not known cannot be lost: where this is 0 a group says nothing of forgetting.
    """
    accuracy, facts = probe_accuracy_learned(history, corpus, group), probe_facts(history, corpus, group)
    if accuracy is None or not facts:
        return None
    return float(accuracy - CHANCE >= STANDARD_ERRORS * math.sqrt(CHANCE * (1 - CHANCE) / facts))


METRICS: dict[str, ProbeMetric] = {
    function.__name__: function
    for function in (
        probe_facts,
        probe_accuracy,
        probe_accuracy_learned,
        probe_accuracy_lost,
        probe_accuracy_pmi,
        probe_accuracy_pmi_learned,
        probe_margin,
        probe_margin_learned,
        probe_margin_lost,
        probe_counts,
    )
}


def probe_metrics(history: History, corpora: Sequence[str]) -> dict[str, float | None]:
    """Every metric of the groups that were measured, as NAME/CORPUS/TYPE/FORM; empty without probes."""
    groups = {name.partition("/")[2] for stage in history.stages for name in stage.points if "probe_facts/" in name}
    pairs = [group.split("/", 1) for group in sorted(groups)]
    return {
        f"{name}/{corpus}/{group}": metric(history, corpus, group)
        for name, metric in METRICS.items()
        for corpus, group in pairs
        if corpus in (*corpora, NEUTRAL)
    }


def _end(history: History, name: str, corpus: str, group: str) -> float | None:
    return _at(history, len(history.stages) - 1, name, corpus, group)


def _learned(history: History, name: str, corpus: str, group: str) -> float | None:
    learned = _learned_in(history, corpus)
    return None if learned is None else _at(history, learned, name, corpus, group)


def _lost(history: History, name: str, corpus: str, group: str) -> float | None:
    before, after = _learned(history, name, corpus, group), _end(history, name, corpus, group)
    later = _learned_in(history, corpus) != len(history.stages) - 1
    if before is None or after is None or not later or not probe_counts(history, corpus, group):
        return None
    return before - after


def _learned_in(history: History, corpus: str) -> int | None:
    return 0 if corpus == NEUTRAL else history.learned_in(corpus)


def _at(history: History, stage: int, name: str, corpus: str, group: str) -> float | None:
    """The last value of a curve in a stage."""
    curve = f"{name}/{corpus}/{group}"
    return history.stages[stage].end(curve) if curve in history.stages[stage].points else None
