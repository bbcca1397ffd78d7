"""The cache against the model without one, and that it costs nothing where it is not used."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lethe.model.build import initialise
from lethe.model.config import ModelConfig
from lethe.model.transformer import Cache, TorchTransformer

VOCAB = 61


def drawn(layers: int = 2, heads: int = 3, d_model: int = 24, context: int = 24) -> TorchTransformer:
    """A model with weights so large that attention is far from a plain mean."""
    model = TorchTransformer(ModelConfig(layers=layers, heads=heads, d_model=d_model, context=context), VOCAB)
    initialise(model, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(2.5)
    return model


def some_ids(batch: int, tokens: int) -> Tensor:
    return torch.randint(VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(0))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 24), min_size=1).filter(lambda pieces: sum(pieces) <= 24), st.integers(1, 3))
def test_a_text_read_in_pieces_gives_the_logits_of_the_whole(pieces: list[int], batch: int) -> None:
    model, ids = drawn(), some_ids(batch, sum(pieces))
    cache = Cache(model, batch)
    with torch.inference_mode():
        read = torch.cat([model(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(read, model(ids), rtol=1e-5, atol=1e-5)
    assert cache.tokens == sum(pieces)


def test_what_a_cache_holds_decides_what_follows() -> None:
    model, ids = drawn(), some_ids(2, 5)
    with torch.inference_mode():
        cache = Cache(model, batch=1)
        model(ids[:1], cache)
        other = Cache(model, batch=1)
        model(ids[1:], other)
        assert not torch.allclose(model(ids[:1, :1], cache), model(ids[:1, :1], other))


def test_earlier_tokens_count_towards_the_context() -> None:
    model = drawn(context=8)
    cache = Cache(model, batch=1)
    with torch.inference_mode():
        model(some_ids(1, 6), cache)
        with pytest.raises(ValueError, match="found 9 tokens; allowed: at most the context of 8"):
            model(some_ids(1, 3), cache)
        assert cache.tokens == 6
        model(some_ids(1, 2), cache)


def test_without_a_cache_the_model_compiles_into_one_graph() -> None:
    model, ids = drawn(), some_ids(2, 24)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(ids), model(ids))
