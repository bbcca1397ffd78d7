"""What a model costs, against what torch really keeps, allocates and multiplies."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lethe.interventions.fracture import Fracture, grow
from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig, load_model_config
from lethe.model.cost import (
    NO_GROWTH,
    Growth,
    Memory,
    flops_per_token,
    held_parameters,
    kept,
    largest_micro_batch,
    memory,
    parameter_sizes,
    parameters,
    run_flops_per_token,
)
from lethe.model.fractured import EmbeddingDelta, Fractured, Router
from lethe.model.routed import Routed
from lethe.training.optimizer import make_optimizer, optimizer_tensors
from lethe.training.stage import Recipe

VOCAB = 1000
SHAPES = [
    {"layers": 1, "heads": 2, "d_model": 64, "context": 32},
    {"layers": 3, "heads": 4, "d_model": 128, "d_ff": 512, "context": 64},
    {"layers": 6, "heads": 2, "d_model": 32, "d_ff": 32, "context": 128},
]


def built(config: ModelConfig, seed: int = 0) -> nn.Module:
    model = build_model(config, VOCAB)
    initialise(model, seed)
    return model


def bytes_kept(model: nn.Module, config: ModelConfig, rows: int, precision: str) -> int:
    """Distinct storages that autograd saves in a forward with its loss, parameters apart."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(0, VOCAB, (rows, config.context + 1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
    assert loss.requires_grad, "the graph must live until it is measured, or storages would be used twice"
    return sum(size for pointer, size in saved.items() if pointer not in own)


@pytest.mark.parametrize("implementation", ["torch", "fundamentals"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_kept_is_what_autograd_saves(shape: dict, precision: str, implementation: str):
    config = ModelConfig(**shape, implementation=implementation)
    counted = kept(config, VOCAB, 4, precision, (), NO_GROWTH)
    assert counted == pytest.approx(bytes_kept(built(config), config, 4, precision), rel=0.05)


def fractured(config: ModelConfig, **parameters: Any) -> tuple[Fractured, Growth]:
    """One with a frozen trunk, and its growth."""
    chosen, trunk = Fracture.Parameters(**parameters), built(config).requires_grad_(False)
    delta = None if chosen.embedding == "none" else EmbeddingDelta(trunk.embedding.weight, None)
    router = Router(torch.linspace(-3, 3, VOCAB), 0.9, 0.5, 0)
    growth = Fracture.growth(chosen, config, VOCAB)
    return Fractured(trunk, delta, router, grow(chosen, config), 0), growth


@pytest.mark.parametrize(
    ("grows", "at_least"), [({}, 0.94), ({"growth": "units", "width": 0.25}, 0.78), ({"growth": "clone"}, 0.9)]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_beside_a_frozen_trunk_no_more_is_kept_than_counted_and_nearly_as_much(shape, precision, grows, at_least):
    config = ModelConfig(**shape)
    model, growth = fractured(config, **grows)
    found = bytes_kept(model, config, 4, precision) / kept(config, VOCAB, 4, precision, (), growth)
    assert at_least < found < 1.01
    model.requires_grad_(True)  # a later stage trains all of it
    found = bytes_kept(model, config, 4, precision) / kept(config, VOCAB, 4, precision, (growth,), NO_GROWTH)
    assert found == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mixture_that_trains_keeps_what_its_models_keep_and_its_own(shape, precision):
    config, grown = ModelConfig(**shape), []
    model = built(config)
    for i in range(2):
        path, growth = fractured(config, rank=4) if i else (built(config, seed=1), Growth())
        model = Routed(model, path.requires_grad_(True), "bayes", 0.9)
        grown.append(growth._replace(beside=True))
        counted = kept(config, VOCAB, 4, precision, grown, NO_GROWTH)
        assert bytes_kept(model, config, 4, precision) == pytest.approx(counted, rel=0.02)


def test_the_rows_of_an_embedding_that_are_needed_keep_their_logits_too():
    config, rows = ModelConfig(**SHAPES[1]), torch.arange(VOCAB)
    model, growth = fractured(config)
    model.embedding = EmbeddingDelta(model.trunk.embedding.weight, rows)
    counted = kept(config, VOCAB, 4, "fp32", (), growth._replace(kept=growth.kept + VOCAB))
    assert bytes_kept(model, config, 4, "fp32") == pytest.approx(counted, rel=0.02)


def peak(model: nn.Module, config: ModelConfig, rows: int) -> int:
    """The most bytes that torch's allocator has given out in a training step, or an evaluation if nothing trains."""
    optimizer = make_optimizer(
        model, Recipe(batch=1, learning_rate=1e-3), {n: 0.0 for n, p in model.named_parameters() if not p.requires_grad}
    )
    trains = any(parameter.requires_grad for parameter in model.parameters())
    ids = torch.randint(0, VOCAB, (rows, config.context + 1))

    def step() -> None:
        with torch.set_grad_enabled(trains):
            loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        if trains:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    step()  # the moments are there
    tensors = [*model.parameters(), *(t for state in optimizer.state.values() for t in state.values())]
    bytes_, most = sum({t.data_ptr(): t.nbytes for t in tensors}.values()), 0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            bytes_ += event.nbytes()
            most = max(most, bytes_)
    return most


@pytest.mark.parametrize("kind", ["plain", "rank", "units", "then trained", "mixture", "mixture then trained"])
def test_a_step_takes_no_more_than_counted_and_nearly_as_much(kind):
    config = ModelConfig(layers=2, heads=2, d_model=64, context=64)
    model, growth = built(config), Growth()
    grown: tuple[Growth, ...] = ()
    if kind in ("rank", "units", "then trained"):
        model, growth = fractured(config, **({"growth": "units", "width": 0.4} if kind == "units" else {}))
    if kind.startswith("mixture"):
        model = Routed(model, built(config, seed=1), "bayes", 0.9).requires_grad_(False)
        growth = Growth(frozen=True, beside=True, changed=parameters(config, VOCAB))
    if kind.endswith("then trained"):
        model.requires_grad_(True)
        grown, growth = (growth,), Growth()
    held_out = 16 if kind == "mixture" else 0
    need = memory(config, VOCAB, rows=16, precision="fp32", held_out=held_out, grown=grown, growth=growth)
    found = peak(model, config, 16) / (need.together - need.heap - need.process)
    assert 0.85 < found < 1.01


GROWS: list[dict[str, Any]] = [{"rank": 3}, {"growth": "units", "width": 0.1}, {"growth": "clone", "embedding": "none"}]


@pytest.mark.parametrize(("name", "grows"), [("tiny", None), ("small", None), *(("toy", grows) for grows in GROWS)])
def test_weights_gradients_and_moments_are_the_real_ones_and_what_stands_still_has_none(name, grows):
    config = load_model_config(name)
    model, growth = (built(config), Growth()) if grows is None else fractured(config, **grows)
    names = {name for name, _ in model.named_parameters() if name.startswith("trunk.")}
    optimizer = make_optimizer(model, Recipe(batch=1, learning_rate=1e-3), dict.fromkeys(names, 0.0))
    model(torch.zeros(1, 8, dtype=torch.int64)).sum().backward()
    optimizer.step()
    need = memory(config, VOCAB, rows=1, precision="fp32", growth=growth)
    moments = [tensor for name, tensor in optimizer_tensors(optimizer).items() if not name.startswith("step/")]
    assert need.weights == sum(p.nbytes for p in model.parameters())
    assert need.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert need.optimizer == sum(tensor.nbytes for tensor in moments)


def test_a_mixture_that_is_only_made_holds_its_models_and_evaluates():
    config = load_model_config("5m")
    half = Growth(frozen=True, beside=True, changed=1000)
    need = memory(config, 32_768, rows=8, precision="fp32", held_out=32, growth=half)
    assert (need.gradients, need.optimizer) == (0, 0)
    assert need.weights == 4 * (parameters(config, 32_768) + 1000)
    assert need.activations == 3 * 4 * 4 * 1024 * 32_768  # 4 sequences; two models' log-probabilities and their sum


def test_a_stage_that_trains_a_mixture_trains_all_its_models_apart():
    """Food, a path of which 1,000 weights changed, and one that fractured it."""
    config = load_model_config("toy")
    plain = parameters(config, VOCAB)
    grown = (Growth(frozen=True, beside=True, changed=1000), Growth(10, frozen=True, beside=True))
    assert held_parameters(config, VOCAB, grown) == plain + 1010
    assert held_parameters(config, VOCAB, (*grown, Growth())) == 3 * plain + 10
    need = memory(config, VOCAB, rows=1, precision="fp32", grown=grown)
    assert need.weights == need.gradients == need.optimizer // 2 == 4 * (3 * plain + 10)


def test_the_parameters_one_by_one_are_the_models():
    for implementation in ("torch", "fundamentals"):
        config = ModelConfig(layers=3, heads=2, d_model=16, context=8, implementation=implementation)
        real = {name: p.numel() for name, p in build_model(config, VOCAB).named_parameters()}
        assert parameter_sizes(config, VOCAB) == real
        assert parameters(config, VOCAB) == sum(real.values())


def test_flops_of_grown_models_by_hand():
    config = ModelConfig(layers=2, heads=2, d_model=8, d_ff=16, context=16)
    matrices, attention, g = 2 * (4 * 64 + 3 * 128) + 800, 12 * 2 * 8 * 16, Growth(50, frozen=True)
    beside = g._replace(beside=True)
    assert flops_per_token(config, 100) == 6 * matrices + attention
    assert flops_per_token(config, 100, (), g) == 4 * matrices + 6 * 50 + attention
    assert flops_per_token(config, 100, (g,), g) == 4 * (matrices + 50) + 6 * 50 + attention
    assert flops_per_token(config, 100, (g, g)) == 6 * (matrices + 100) + attention
    passes = 2 * matrices + attention // 3
    assert run_flops_per_token(config, 100, (Growth(beside=True),)) == 2 * passes
    assert run_flops_per_token(config, 100, (beside,)) == 2 * passes + 2 * 50
    assert run_flops_per_token(config, 100, (beside, beside)) == 3 * passes + 2 * (50 + 100)


def test_a_large_model_by_literal_numbers():
    config = load_model_config("236m")
    need = memory(config, 32_768, rows=32, precision="bf16", held_out=32, gpu=True)
    assert need.weights == need.gradients == need.optimizer // 2 == 4 * 235_963_392
    assert need.heap == 0
    assert need.together == sum(need)
    # A token: 33 norms of 10 D, 16 x (14 D + 8 F + 4 H), log-softmax and two gradients 12 V. Once: 2 a matrix weight.
    a_token = 33 * 10 * 1024 + 16 * (14 * 1024 + 8 * 2752 + 4 * 16) + 12 * 32_768
    assert need.activations == 32 * 1024 * a_token + 2 * (235_963_392 - 33 * 1024)


def test_an_evaluation_counts_where_it_is_the_peak_and_a_cpu_keeps_a_heap():
    config = load_model_config("5m")
    small, evaluating = (memory(config, 32_768, rows=1, precision="fp32", held_out=n) for n in (0, 32))
    assert evaluating.activations == 8 * 4 * 1024 * 32_768 > small.activations  # 4 sequences at once: 512 MiB of logits
    assert evaluating.heap == 2 * evaluating.activations


def test_few_tokens_leave_the_embeddings_two_gradients_as_the_peak():
    config = ModelConfig(layers=1, heads=1, d_model=256, context=8)
    assert memory(config, 32_768, rows=1, precision="fp32").activations == 8 * 32_768 * 256


@given(st.integers(1, 500), st.integers(0, 10_000))
def test_the_micro_batch_is_the_largest_divisor_that_fits(batch: int, room: int):
    def need(rows: int) -> Memory:
        return Memory(rows, 2 * rows, 3 * rows, 4 * rows, 0, 10)

    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and 10 * n + 10 <= room]
    assert largest_micro_batch(batch, room, need) == (fitting[-1] if fitting else None)


def test_more_of_anything_needs_more():
    base = {"layers": 2, "heads": 2, "d_model": 64, "context": 64}
    larger = ({"layers": 3}, {"d_model": 128}, {"context": 128}, {"d_ff": 1024})

    def need(**change: int) -> int:
        return memory(ModelConfig(**(base | change)), VOCAB, rows=8, precision="fp32").together

    assert all(need(**change) > need() for change in larger)
    assert parameters(ModelConfig(**base), VOCAB) < parameters(ModelConfig(**base), 2 * VOCAB)
