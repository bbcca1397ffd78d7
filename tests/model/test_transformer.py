"""The two implementations against each other, against numpy, and against what a causal model must not see."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig

VOCAB = 61
SHAPES = [  # layers, heads, d_model, d_ff, context, T
    (1, 1, 32, 128, 32, 32),
    (2, 2, 64, 192, 64, 17),
    (3, 4, 24, 40, 16, 1),
    (2, 3, 18, 64, 9, 8),
]


def sized(shape: tuple[int, ...], implementation: str = "torch") -> ModelConfig:
    layers, heads, d_model, d_ff, context, _ = shape
    return ModelConfig(
        layers=layers,
        heads=heads,
        d_model=d_model,
        d_ff=d_ff,
        context=context,
        implementation=implementation,  # type: ignore[arg-type]
    )


def drawn(config: ModelConfig, seed: int = 0, vocab_size: int = VOCAB, scale: float = 1.0) -> nn.Module:
    """A model whose weights are `scale` times the initial ones: large enough, attention is far from a plain mean."""
    model = build_model(config, vocab_size)
    initialise(model, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(scale)
    return model


def some_ids(batch: int, T: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (batch, T), generator=torch.Generator().manual_seed(seed))


def logits_and_gradients(model: nn.Module, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model(ids)
    nn.functional.cross_entropy(logits.flatten(0, 1), (ids.flatten() + 1) % VOCAB).backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_both_implementations_give_the_same_logits_and_gradients(shape: tuple[int, ...], scale: float) -> None:
    ids = some_ids(3, shape[-1])
    logits, gradients = logits_and_gradients(drawn(sized(shape), scale=scale), ids)
    others, other_gradients = logits_and_gradients(drawn(sized(shape, "fundamentals"), scale=scale), ids)
    assert logits.shape == (3, shape[-1], VOCAB)
    torch.testing.assert_close(others, logits, rtol=1e-5, atol=1e-5)
    assert list(gradients) == list(other_gradients)
    for name in gradients:
        assert gradients[name].abs().max() > 0
        torch.testing.assert_close(other_gradients[name], gradients[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("implementation", ["torch", "fundamentals"])
def test_the_state_has_these_names_and_shapes(implementation: str) -> None:
    model = build_model(sized((1, 2, 8, 12, 16, 0), implementation), VOCAB)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
        "embedding.weight": (VOCAB, 8),
        "blocks.0.attention_norm.weight": (8,),
        "blocks.0.attention.qkv.weight": (24, 8),
        "blocks.0.attention.out.weight": (8, 8),
        "blocks.0.ffn_norm.weight": (8,),
        "blocks.0.ffn.gate_up.weight": (24, 8),
        "blocks.0.ffn.down.weight": (8, 12),
        "norm.weight": (8,),
    }


@pytest.mark.parametrize("implementation", ["torch", "fundamentals"])
@settings(max_examples=20)
@given(t=st.integers(0, 15), shift=st.integers(1, VOCAB - 1))
def test_a_token_changes_nothing_before_it_and_something_from_it(implementation: str, t: int, shift: int) -> None:
    model = drawn(sized((2, 2, 16, 32, 16, 0), implementation), scale=2.5)
    ids = some_ids(1, 16)
    changed = ids.clone()
    changed[0, t] = (changed[0, t] + shift) % VOCAB
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :t], after[:, :t])
    assert (before[:, t:] != after[:, t:]).any(dim=-1).all()


@pytest.mark.parametrize("implementation", ["torch", "fundamentals"])
def test_a_shorter_sequence_is_the_head_of_a_longer_one(implementation: str) -> None:
    model = drawn(sized((2, 2, 16, 32, 16, 0), implementation), scale=2.5)
    ids = some_ids(2, 16)
    torch.testing.assert_close(model(ids[:, :5]), model(ids)[:, :5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["torch", "fundamentals"])
def test_over_the_context_is_refused(implementation: str) -> None:
    model = build_model(sized((1, 1, 8, 12, 16, 0), implementation), VOCAB)
    with pytest.raises(ValueError, match="found 17 tokens; allowed: at most the context of 16"):
        model(some_ids(1, 17))


def numpy_logits(state: dict[str, np.ndarray], ids: list[int], heads: int, theta: float, eps: float) -> np.ndarray:
    """One block for one sequence, position by position and head by head, rotating with complex numbers."""

    def norm(vector: np.ndarray, name: str) -> np.ndarray:
        return vector / np.sqrt((vector**2).mean() + eps) * state[name]

    def turn(vector: np.ndarray, position: int) -> np.ndarray:
        half = len(vector) // 2
        angles = position * theta ** (-np.arange(half) / half)
        turned = (vector[:half] + 1j * vector[half:]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag])

    stream = [state["embedding.weight"][i] for i in ids]
    d = len(stream[0])
    projected = [state["blocks.0.attention.qkv.weight"] @ norm(x, "blocks.0.attention_norm.weight") for x in stream]
    logits = []
    for t, x in enumerate(stream):
        read = []
        for features in np.split(np.arange(d), heads):
            query = turn(projected[t][features], t)
            scores = [query @ turn(projected[s][d + features], s) / np.sqrt(d / heads) for s in range(t + 1)]
            weights = np.exp(scores) / np.exp(scores).sum()
            read.append(sum(weights[s] * projected[s][2 * d + features] for s in range(t + 1)))
        x = x + state["blocks.0.attention.out.weight"] @ np.concatenate(read)
        gate, up = np.split(state["blocks.0.ffn.gate_up.weight"] @ norm(x, "blocks.0.ffn_norm.weight"), 2)
        x = x + state["blocks.0.ffn.down.weight"] @ (gate / (1 + np.exp(-gate)) * up)
        logits.append(state["embedding.weight"] @ norm(x, "norm.weight"))
    return np.array(logits)


@pytest.mark.parametrize("implementation", ["torch", "fundamentals"])
def test_one_block_is_what_numpy_makes_of_it(implementation: str) -> None:
    config = sized((1, 3, 24, 40, 16, 0), implementation).model_copy(update={"rope_theta": 500.0, "norm_eps": 1e-3})
    model = drawn(config, scale=2.5)
    with torch.no_grad():
        for norm in (p for name, p in model.named_parameters() if "norm" in name):
            norm.copy_(torch.linspace(0.5, 1.5, len(norm)))
    ids = some_ids(1, 11)
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in model.state_dict().items()}
    expected = numpy_logits(state, ids[0].tolist(), heads=3, theta=500.0, eps=1e-3)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(model(ids)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_initial_values_are_the_same_bits_in_both_implementations() -> None:
    state, other = (drawn(sized(SHAPES[1], kind), seed=3).state_dict() for kind in ("torch", "fundamentals"))
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_initial_values_depend_on_seed_and_name_only() -> None:
    torch.manual_seed(0)
    small, large = drawn(sized((1, 2, 64, 192, 64, 0))), drawn(sized((3, 2, 64, 192, 64, 0)))
    for name, tensor in small.state_dict().items():
        scale = 3**0.5 if name.endswith(("out.weight", "down.weight")) else 1.0
        torch.testing.assert_close(large.state_dict()[name] * scale, tensor)
    other = drawn(sized((1, 2, 64, 192, 64, 0)), seed=1).state_dict()
    assert not torch.equal(other["embedding.weight"], small.state_dict()["embedding.weight"])
    blocks = [large.state_dict()[f"blocks.{i}.attention.qkv.weight"] for i in range(3)]
    assert not any(torch.equal(a, b) for a, b in pairwise(blocks))


def test_initial_values_have_their_spread() -> None:
    for name, tensor in drawn(sized((2, 2, 64, 192, 64, 0)), vocab_size=512).state_dict().items():
        if "norm" in name:
            assert torch.equal(tensor, torch.ones(64))
        else:
            std = 0.0790569  # sqrt(2 / (5 x 64))
            if name.endswith(("out.weight", "down.weight")):
                std /= 2
            assert tensor.std().item() == pytest.approx(std, rel=0.05)
            assert abs(tensor.mean().item()) < std / 20


def test_initial_values_are_these_numbers() -> None:
    """A change here changes every stage that was ever trained: raise the version of the training semantics."""
    state = drawn(sized(SHAPES[0]), seed=7).state_dict()
    assert state["embedding.weight"][0, :3].tolist() == pytest.approx([-0.0620425, -0.0816796, 0.1421465], abs=1e-6)
    assert state["blocks.0.ffn.down.weight"][0, :3].tolist() == pytest.approx(
        [0.0709594, -0.0138312, 0.0167767], abs=1e-6
    )


@pytest.mark.parametrize("implementation", ["torch", "fundamentals"])
def test_a_model_built_on_the_meta_device_works_once_filled(implementation: str) -> None:
    config = sized(SHAPES[1], implementation)
    with torch.device("meta"):
        model = build_model(config, VOCAB)
    model.to_empty(device="cpu")
    initialise(model, 0)
    ids = some_ids(2, 64)
    assert torch.equal(model(ids), drawn(config)(ids))


@pytest.mark.parametrize("implementation", ["torch", "fundamentals"])
def test_bfloat16_autocast_changes_logits_a_little_only(implementation: str) -> None:
    model, ids = drawn(sized(SHAPES[1], implementation)), some_ids(2, 64)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(ids)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), model(ids), rtol=0.05, atol=0.02)
