"""What a model costs, against what torch really keeps, allocates and multiplies."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig, load_model_config
from lethe.model.cost import Memory, kept, largest_micro_batch, memory, parameters
from lethe.training.optimizer import make_optimizer, optimizer_tensors
from lethe.training.stage import Recipe

VOCAB = 1000
SHAPES = [
    {"layers": 1, "heads": 2, "d_model": 64, "context": 32},
    {"layers": 3, "heads": 4, "d_model": 128, "d_ff": 512, "context": 64},
    {"layers": 6, "heads": 2, "d_model": 32, "d_ff": 32, "context": 128},
]


def bytes_kept(config: ModelConfig, rows: int, precision: str) -> int:
    """Distinct storages that autograd saves in a forward with its loss, parameters apart."""
    model = build_model(config, VOCAB)
    initialise(model, 0)
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
    assert kept(config, VOCAB, 4, precision) == pytest.approx(bytes_kept(config, 4, precision), rel=0.05)


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_weights_and_optimizer_are_the_real_tensors_bytes(name: str):
    config = load_model_config(name)
    model = build_model(config, VOCAB)
    initialise(model, 0)
    optimizer = make_optimizer(model, Recipe(batch=1, learning_rate=1e-3), {})
    model(torch.zeros(1, 8, dtype=torch.int64)).sum().backward()
    optimizer.step()
    need = memory(config, VOCAB, rows=1, precision="bf16")
    moments = [tensor for name, tensor in optimizer_tensors(optimizer).items() if not name.startswith("step/")]
    assert need.weights == sum(p.nbytes for p in model.parameters())
    assert need.gradients == sum(p.grad.nbytes for p in model.parameters())
    assert need.optimizer == sum(tensor.nbytes for tensor in moments)


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


def test_costing_needs_no_torch():
    code = "import sys, lethe.model.cost, lethe.devices; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
