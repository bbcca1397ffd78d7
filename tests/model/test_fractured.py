"""Fractured models: exact at the cut and behind a closed gate, causal, and counted."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lethe.config import UserError
from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.model.fractured import (
    EmbeddingDelta,
    Fractured,
    GatedCache,
    Router,
    cacheable,
    clones_beside,
    low_rank_beside,
    transformer_in,
    units_beside,
)
from lethe.model.generate import generate, sample_rows
from lethe.model.shifted import Shifted

VOCAB = 61
CONFIG = ModelConfig(layers=2, heads=2, d_model=16, d_ff=24, context=24)
SHAPES: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "units": {"units": 10},
    "lora, some rows": {"rank": 4, "rows": 7},
    "units, no embedding": {"units": 10, "rows": 0},
    "lora, no router": {"rank": 4, "router": False},
    "clone": {"clone": ".ffn."},
}


def plain(implementation: str = "torch") -> nn.Module:
    model = build_model(CONFIG.model_copy(update={"implementation": implementation}), VOCAB)
    initialise(model, 0)
    return model


def cut(
    trunk: nn.Module,
    rows: int = VOCAB,
    router: bool = True,
    seed: int = 1,
    rank: int = 0,
    units: int = 0,
    clone: str = "",
) -> Fractured:
    """A fracture of `trunk` as it is at the cut, its log-ratios drawn; `clone` is in the names of what is cloned."""
    grow = low_rank_beside(rank) if rank else units_beside(units) if units else clones_beside(lambda n: clone in n)
    torch.manual_seed(seed)
    chosen = None if rows == VOCAB else torch.randperm(VOCAB)[:rows].sort().values
    embedding = EmbeddingDelta(transformer_in(trunk).embedding.weight, chosen) if rows else None
    return Fractured(trunk, embedding, Router(torch.randn(VOCAB), 0.9, 0.5, 0) if router else None, grow, 0)


def trained(model: Fractured) -> Fractured:
    """As if it had been: every part that grew moves away from 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("trunk."):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def some_ids(batch: int = 3, tokens: int = 24, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids)


@pytest.mark.parametrize("shape", SHAPES)
def test_at_the_cut_the_logits_are_the_trunks_whatever_the_gate(shape):
    expected = logits(plain(), some_ids())
    for seed in range(3):
        assert torch.equal(logits(cut(plain(), seed=seed, **SHAPES[shape]), some_ids()), expected)


def test_a_clone_behind_an_open_gate_is_the_sum_of_both_matrices():
    model, copy = trained(cut(plain(), rows=0, router=False, clone=".")), plain()
    with torch.no_grad():
        for name, module in copy.blocks.named_modules(prefix="blocks"):
            if isinstance(module, nn.Linear):
                module.weight += model.parts[name.replace(".", "_")].delta
    torch.testing.assert_close(logits(model, some_ids()), logits(copy, some_ids()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if "no router" not in shape])
def test_behind_a_closed_gate_they_are_the_trunks_for_ever(shape):
    model = trained(cut(plain(), **SHAPES[shape]))
    assert (logits(model, some_ids()) - logits(plain(), some_ids())).abs().max() > 0.1
    assert model.router is not None
    model.router.log_ratio.fill_(-1e9)
    assert torch.equal(logits(model, some_ids()), logits(plain(), some_ids()))


def test_an_open_gate_adds_what_has_grown_to_the_weights():
    """Against a plain model whose weights hold the products, and more rows of units."""
    model = trained(cut(plain(), rank=4, router=False))
    merged = plain()
    with torch.no_grad():
        for name, module in merged.named_modules():
            if isinstance(module, nn.Linear):
                part = model.parts[name.replace(".", "_")]
                module.weight += part.b @ part.a  # type: ignore[operator]
        assert model.embedding is not None
        transformer_in(merged).embedding.weight += model.embedding.delta
    torch.testing.assert_close(logits(model, some_ids()), logits(merged, some_ids()), atol=1e-4, rtol=1e-4)


def test_grown_units_are_units_like_those_there_were():
    model = trained(cut(plain(), rows=0, units=10, router=False))
    wide = build_model(CONFIG.model_copy(update={"d_ff": 34}), VOCAB)
    state = dict(plain().state_dict())
    for layer in range(2):
        grown, name = model.parts[f"blocks_{layer}_ffn"], f"blocks.{layer}.ffn"
        old, new = state[f"{name}.gate_up.weight"].chunk(2), grown.gate_up.detach().chunk(2)  # type: ignore[operator]
        state[f"{name}.gate_up.weight"] = torch.cat((old[0], new[0], old[1], new[1]))
        state[f"{name}.down.weight"] = torch.cat((state[f"{name}.down.weight"], grown.down.detach()), 1)  # type: ignore[operator]
    wide.load_state_dict(state)
    torch.testing.assert_close(logits(model, some_ids()), logits(wide, some_ids()), atol=1e-5, rtol=1e-5)


def test_chosen_rows_are_a_delta_that_is_0_elsewhere():
    some = trained(cut(plain(), rows=7, rank=4))
    every = cut(plain(), rank=4)
    assert some.embedding is not None
    assert some.embedding.rows is not None
    assert every.embedding is not None
    assert every.router is not None
    every.load_state_dict({k: v for k, v in some.state_dict().items() if "embedding.delta" not in k}, strict=False)
    with torch.no_grad():
        every.embedding.delta[some.embedding.rows] = some.embedding.delta
    torch.testing.assert_close(logits(some, some_ids()), logits(every, some_ids()), atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@given(
    st.integers(1, 40), st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.floats(0.1, 3), st.floats(-2, 2), st.integers(0, 9)
)
def test_the_gate_is_the_recursion(tokens: int, gamma: float, sharpness: float, prior: float, seed: int) -> None:
    ratios = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))
    ids = some_ids(2, tokens, seed)
    gate, last = Router(ratios, gamma, sharpness, prior)(ids)
    for row, found, at_end in zip(ids.numpy(), gate[..., 0].numpy(), last.numpy(), strict=True):
        s = np.float64(0)
        for token, g in zip(row, found, strict=True):
            s = gamma * s + ratios.numpy()[token]
            assert g == pytest.approx(1 / (1 + np.exp(-prior - sharpness * s)), abs=1e-5)
        assert at_end == pytest.approx(s, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", [0, 11, 23])
def test_no_logit_depends_on_a_later_token(shape, place):
    model, ids = trained(cut(plain(), **SHAPES[shape])), some_ids()
    changed = ids.clone()
    changed[:, place] = (ids[:, place] + 1) % VOCAB
    before, after = logits(model, ids), logits(model, changed)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place], after[:, place])


def test_one_fracture_goes_around_another_and_keeps_it_exact():
    inner = trained(cut(plain(), rank=4))
    expected = logits(inner, some_ids())
    names = list(inner.state_dict())
    outer = cut(inner, units=10, rows=7, seed=2)
    assert torch.equal(logits(outer, some_ids()), expected)
    trained(outer)
    assert not torch.equal(logits(outer, some_ids()), expected)
    assert outer.router is not None
    outer.router.log_ratio.fill_(-1e9)
    assert torch.equal(logits(outer, some_ids()), expected)
    assert [name for name in outer.state_dict() if name.startswith("trunk.")] == [f"trunk.{name}" for name in names]
    assert inner.router is not None
    inner.router.log_ratio.fill_(-1e9)
    assert torch.equal(logits(outer, some_ids()), logits(plain(), some_ids()))


def test_two_of_the_same_shape_begin_from_other_draws():
    outer = cut(inner := cut(plain(), rank=4), rank=4)
    assert inner.parts.keys() == outer.parts.keys()
    for name in outer.parts:
        assert not torch.equal(outer.parts[name].a, inner.parts[name].a)  # type: ignore[arg-type]


@pytest.mark.parametrize("pieces", [[24], [1] * 24, [5, 1, 7, 11]])
def test_read_in_pieces_with_a_cache_it_gives_the_logits_of_the_whole(pieces):
    model = trained(cut(trained(cut(plain(), rank=4)), units=10, rows=7))
    transformer = cacheable(model)
    assert transformer is not None
    cache = GatedCache(transformer, 3)
    with torch.inference_mode():
        read = torch.cat([model(piece, cache) for piece in some_ids().split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(read, logits(model, some_ids()), rtol=1e-4, atol=1e-4)


def test_what_it_writes_does_not_depend_on_the_cache():
    """Behind a shift of 0 the same model has no cache."""
    model = trained(cut(plain(), rank=4))
    uncached = Shifted(model, VOCAB)
    assert cacheable(uncached) is None
    first = torch.arange(VOCAB)
    rows = [sample_rows(each, first, 24, VOCAB, torch.Generator().manual_seed(0)) for each in (model, uncached)]
    assert torch.equal(*rows)
    how = {"context": 24, "tokens": 60, "temperature": 1.0, "top_k": None, "seed": 0, "vocab": VOCAB, "stop": None}
    assert list(generate(model, some_ids(1, 5), **how)) == list(generate(uncached, some_ids(1, 5), **how))  # type: ignore[arg-type]


def test_the_trunk_alone_is_itself():
    model = trained(cut(trunk := plain(), rank=4))
    model(some_ids())
    assert torch.equal(logits(trunk, some_ids()), logits(plain(), some_ids()))


def test_a_copy_is_a_model_of_its_own():
    model = trained(cut(trained(cut(plain(), rank=4)), units=10, rows=7))
    other = copy.deepcopy(model)
    assert torch.equal(logits(other, some_ids()), logits(model, some_ids()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert logits(other, some_ids()).abs().max() > 0.1


def test_it_compiles_into_one_graph():
    model = trained(cut(trained(cut(plain(), rank=4)), units=10, rows=7))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(some_ids()), model(some_ids()))


def test_another_trunk_than_one_transformer_is_refused():
    with pytest.raises(UserError, match="found a model of 0 transformers of implementation torch, .*; allowed: one"):
        cut(plain("fundamentals"), rank=4)
    with pytest.raises(UserError, match="found a model of 2 "):
        cut(nn.ModuleList([plain(), plain()]), rank=4)
