"""Every metric of a cell by its name in results and MLflow, and what the cell cost.

To add a metric, write a function in `forgetting.py` (from the cell's own curves) or `transfer.py` (against others) and
name it here: one value a corpus, or one a cell; in units of loss, or not.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lethe.evaluation import forgetting, transfer
from lethe.evaluation.history import History
from lethe.evaluation.probe_metrics import probe_metrics

CorpusMetric = Callable[[History, str], float | None]
CellMetric = Callable[[History], float | None]


def tokens(history: History) -> float:
    """Tokens trained on over the sequence, shared stages counted."""
    return float(sum(stage.tokens for stage in history.stages))


def train_seconds(history: History) -> float:
    """Wall time of the stages as recorded when they were trained, evaluations included."""
    return sum(stage.seconds for stage in history.stages)


def tokens_per_second(history: History) -> float | None:
    """`tokens` over `train_seconds`."""
    seconds = train_seconds(history)
    return tokens(history) / seconds if seconds else None


def mfu(history: History) -> float | None:
    """Model FLOPs utilisation (Chowdhery et al. 2022, appendix B): FLOPs of the tokens over what the devices could do.

    That is `tokens_per_second` x FLOPs a token / peak FLOP/s where all stages ran on equal devices; None if any ran on
    an unknown one. FLOPs are those of training on the stage's tokens: of the model as it has grown, less the gradients
    of what is frozen, and of what the intervention computes beside (a teacher, further rows). Evaluations, and what is
    done once at the switch, count as time alone.
    """
    could = 0.0
    for stage in history.stages:
        if stage.peak_flops is None:
            return None
        could += stage.seconds * stage.peak_flops
    return sum(stage.tokens * stage.flops_per_token for stage in history.stages) / could if could else None


def _named(*functions: Callable) -> dict[str, Callable]:
    return {function.__name__: function for function in functions}


# In nats per token, and once more in bits per byte as NAME_bpb.
CORPUS_LOSSES: dict[str, CorpusMetric] = _named(
    forgetting.final_loss,
    forgetting.learned_loss,
    forgetting.forgetting,
    forgetting.forgetting_best,
    forgetting.forgetting_area,
    forgetting.stability_gap,
    forgetting.plasticity,
    transfer.intransigence,
    transfer.gap_to_combined,
)
CELL_LOSSES: dict[str, CellMetric] = _named(
    transfer.backward_transfer, transfer.forward_transfer, transfer.average_loss
)
# Shares, tokens and exponents: the same whatever the unit of loss.
CORPUS_METRICS: dict[str, CorpusMetric] = _named(
    transfer.fraction_lost,
    forgetting.half_forgetting_tokens,
    forgetting.compute_equivalent,
    forgetting.time_to_recover,
    forgetting.relearning_savings,
    forgetting.forgetting_exponent,
    forgetting.forgetting_exponent_error,
    forgetting.forgetting_fit_r2,
)
CELL_METRICS: dict[str, CellMetric] = _named(tokens, train_seconds, tokens_per_second, mfu)


def metrics(history: History, corpora: Sequence[str]) -> dict[str, float | None]:
    """Every metric of a cell: `NAME/CORPUS`, or `NAME` for the cell's own, those in units of loss in both units."""
    values = {f"{name}/{x}": metric(history, x) for name, metric in CORPUS_METRICS.items() for x in corpora}
    values |= {name: metric(history) for name, metric in CELL_METRICS.items()}
    for read, suffix in ((history, ""), (replace(history, unit="bpb"), "_bpb")):
        values |= {f"{name}{suffix}/{x}": metric(read, x) for name, metric in CORPUS_LOSSES.items() for x in corpora}
        values |= {f"{name}{suffix}": metric(read) for name, metric in CELL_LOSSES.items()}
    return values | probe_metrics(history, corpora)
