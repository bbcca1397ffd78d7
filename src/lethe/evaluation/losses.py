"""Held-out losses: float32 whatever the training's precision, the mean over tokens, each sequence counted once."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lethe.config import UserError
from lethe.model.cost import rows_evaluated_at_once
from lethe.tokens.shards import TokenSplit
from lethe.worker import Worker


def held_out_rows(split: TokenSplit, context: int, sequences: int) -> np.ndarray:
    """The same `sequences` windows at every mark, evenly spread over the split: int64 [n, context + 1].

    Raises UserError for a split without a whole window.
    """
    windows = split.windows(context)
    if not windows:
        raise UserError(f"held-out text: found {split.tokens} tokens; allowed: more than the context, {context}")
    n = min(sequences, windows)
    return split.read(np.arange(n) * windows // n, context)


@torch.no_grad()
def evaluate(
    model: nn.Module, rows: dict[str, np.ndarray], byte_lengths: np.ndarray, worker: Worker
) -> dict[str, float]:
    """`loss/X` (nats per token) and `bpb/X` (bits per byte of text) of each corpus X.

    `rows` is int64 [n, context + 1] per corpus, `byte_lengths` int64 [V]. Ranks share the rows and sum what they
    find in float64, so that an uneven remainder is counted once and their number changes only the order of sums.
    """
    values = {}
    for corpus, all_rows in rows.items():
        nats = torch.zeros((), dtype=torch.float64, device=worker.device)
        at_once = rows_evaluated_at_once(all_rows.shape[1] - 1, len(byte_lengths))
        for chunk in torch.from_numpy(all_rows[worker.rank :: worker.world]).to(worker.device).split(at_once):
            logits = model(chunk[:, :-1]).float()
            losses = F.cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten(), reduction="none")
            nats += losses.double().sum()
        total, targets = worker.sum(nats).item(), all_rows[:, 1:]
        values[f"loss/{corpus}"] = total / targets.size
        values[f"bpb/{corpus}"] = total / math.log(2) / max(int(byte_lengths[targets].sum()), 1)
    return values


def unigram_entropy(split: TokenSplit, vocab_size: int) -> float:
    """Nats a token of the split's ids, each drawn by its frequency: the loss of a model that knows no context.

    Reads windows of 1,024 tokens, a few million tokens at a time; what does not fill the last window is left out.
    """
    context = min(1024, split.tokens - 1)
    windows, counts = split.windows(context), np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, windows, 4096):
        rows = split.read(np.arange(start, min(start + 4096, windows)), context)
        counts += np.bincount(rows[:, 1:].ravel(), minlength=vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
