"""Single documents: which are looked at, against the stream cut at every end, and what each costs, one at a time."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lethe.evaluation.documents import Document, document_beginnings, score_documents
from lethe.files import sha256
from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.tokens.meta import Shard, Split
from lethe.tokens.shards import TokenSplit

VOCAB = 60


def split_of(folder: Path, lengths: list[int], shards: int) -> tuple[TokenSplit, list[np.ndarray]]:
    """A split whose documents have these lengths, and the documents."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    documents = [np.append(i, rng.integers(1, VOCAB, length - 1)) for i, length in enumerate(lengths, start=1)]
    files = []
    for i, part in enumerate(np.array_split(np.arange(len(lengths)), shards)):
        stream = np.concatenate([np.append(documents[d], 0) for d in part] or [np.empty(0)]).astype("<u2")
        path = folder / f"val-{i:05}.bin"
        path.write_bytes(stream.tobytes())
        files.append(Shard(name=path.name, tokens=len(stream), documents=len(part), sha256=sha256(path)))
    tokens = sum(file.tokens for file in files)
    split = Split(documents=len(lengths), tokens=tokens, bytes=0, shards=[file for file in files if file.tokens])
    return TokenSplit(folder, split, np.dtype("<u2")), documents


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=12),
    context=st.integers(1, 80),
    shards=st.integers(1, 3),
    limit=st.integers(1, 12),
)
def test_they_are_the_beginnings_of_long_enough_documents_evenly_spread(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], context: int, shards: int, limit: int
) -> None:
    split, documents = split_of(tmp_path_factory.mktemp("split"), lengths, shards)
    whole = split.windows(context) * context  # tokens in whole windows
    ends = np.cumsum([length + 1 for length in lengths])
    expected = [d[:context] for d, end in zip(documents, ends, strict=True) if len(d) >= 16 and end <= whole]
    found = document_beginnings(split, context, limit)
    assert len(found) == min(limit, len(expected))
    places = [next(i for i, e in enumerate(expected) if np.array_equal(e, ids)) for ids in found]
    gaps = np.diff([*places, len(expected)])
    assert not places or (places[0] == 0 and gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model = build_model(ModelConfig(layers=2, heads=2, d_model=32, context=24), 64)
    initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def test_the_cost_is_that_of_each_document_alone_and_the_likeliest_is_first(model: nn.Module) -> None:
    rng = np.random.default_rng(1)
    documents = [rng.integers(1, VOCAB, length) for length in rng.integers(1, 25, 75)]
    bytes_of = rng.integers(1, 9, 64)
    alone = []
    for ids in documents:
        logits = model(torch.from_numpy(np.append(0, ids))[None, :-1])[0].detach().numpy().astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        nats = -np.log(chances[np.arange(len(ids)), ids]).sum()
        alone.append(Document(ids, nats / len(ids), nats / math.log(2) / bytes_of[ids].sum()))
    alone.sort(key=lambda document: document.loss)
    found = score_documents(model, documents, bytes_of, "cpu")
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(found, alone, strict=True))
    for name in ("loss", "bits_per_byte"):
        values, expected = ([getattr(document, name) for document in each] for each in (found, alone))
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_no_documents_are_none(model: nn.Module, tmp_path: Path) -> None:
    split, _ = split_of(tmp_path, [3, 4, 15], shards=1)
    assert document_beginnings(split, 4, 10) == []
    assert score_documents(model, [], np.ones(64, dtype=np.int64), "cpu") == []
