"""Single held-out documents: how likely the model finds each."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lethe.model.cost import rows_evaluated_at_once
from lethe.tokens.shards import TokenSplit
from lethe.tokens.tokenizer import EOS_ID

FEWEST_TOKENS = 16
WINDOWS_AT_ONCE = 4096


class Document(NamedTuple):
    """The beginning of a document, and what it costs the model."""

    ids: np.ndarray
    """int64 [at most the context]; its `<eos>` is left out."""
    loss: float
    """Nats per token, the first of them after `<eos>`."""
    bits_per_byte: float


def document_beginnings(split: TokenSplit, context: int, limit: int) -> list[np.ndarray]:
    """The first `context` ids, or all, of at most `limit` documents: int64 [n] each, evenly spread, always the same.

    Of the documents that end in a whole window of the split (all but the last few) and have at least FEWEST_TOKENS ids.
    """
    ends = _ends(split, context)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    long_enough = ends - starts >= FEWEST_TOKENS
    starts, ends = starts[long_enough], ends[long_enough]
    n = min(limit, len(starts))
    chosen = np.arange(n) * len(starts) // max(n, 1)
    return [_read(split, context, int(starts[i]), int(ends[i])) for i in chosen]


def _ends(split: TokenSplit, context: int) -> np.ndarray:
    """Where each `<eos>` of the split's windows stands in its stream: int64, ascending."""
    found, windows = [np.empty(0, dtype=np.int64)], split.windows(context)
    for first in range(0, windows, WINDOWS_AT_ONCE):
        rows = split.read(np.arange(first, min(first + WINDOWS_AT_ONCE, windows)), context)[:, :-1]
        found.append(np.flatnonzero(rows == EOS_ID) + first * context)
    return np.concatenate(found)


def _read(split: TokenSplit, context: int, start: int, end: int) -> np.ndarray:
    """The ids from `start` to before `end` in the split's stream, at most `context` of them."""
    end = min(end, start + context)
    windows = np.arange(start // context, -(-end // context))
    stream = split.read(windows, context)[:, :-1].flatten()
    offset = int(windows[0]) * context
    return stream[start - offset : end - offset]


@torch.no_grad()
def score_documents(
    model: nn.Module, beginnings: list[np.ndarray], byte_lengths: np.ndarray, device: str
) -> list[Document]:
    """The documents with what they cost, the likeliest first. `byte_lengths` is int64 [V]."""
    documents = []
    at_once = rows_evaluated_at_once(max(map(len, beginnings), default=1), len(byte_lengths))
    for i in range(0, len(beginnings), at_once):
        batch = beginnings[i : i + at_once]
        for ids, nats in zip(batch, _nats(model, batch, device), strict=True):
            bits = nats / math.log(2) / max(int(byte_lengths[ids].sum()), 1)
            documents.append(Document(ids, nats / len(ids), bits))
    return sorted(documents, key=lambda document: document.loss)


def _nats(model: nn.Module, batch: list[np.ndarray], device: str) -> list[float]:
    """The loss of each document, summed over its ids; rows are padded to the longest, and what pads counts nothing."""
    rows = np.full((len(batch), 1 + max(map(len, batch))), EOS_ID)
    for row, ids in zip(rows, batch, strict=True):
        row[1 : len(ids) + 1] = ids
    inputs = torch.from_numpy(rows).to(device)
    losses = F.cross_entropy(model(inputs[:, :-1]).float().transpose(1, 2), inputs[:, 1:], reduction="none")
    real = inputs[:, 1:] != EOS_ID  # a document holds no <eos>
    return (losses * real).sum(dim=1, dtype=torch.float64).tolist()
