"""What a model costs to train: parameters, FLOPs, bytes of memory. Imports no torch, so planning is instant."""

from collections.abc import Callable
from typing import NamedTuple

from lethe.model.config import ModelConfig

FLOAT32, BFLOAT16 = 4, 2  # bytes
PROCESS = 480 * 2**20
"""Bytes that a trial's process holds besides its model, as measured on a CPU; the context of CUDA takes as much of a
GPU, about."""
HEAP = 2
"""Bytes that a CPU's heap keeps of what was freed, for each byte of activations: measured 0.3 to 1.9, because large
buffers stay in the heap (lethe.training.machine.keep_large_buffers) and training and evaluation take turns in it."""


class Growth(NamedTuple):
    """What a stage gives its model beside what the parent's has."""

    weights: int = 0
    """Each in a product with every token; at most, where the data decide."""
    frozen: bool = False
    """Whether all other weights stay as they are in this stage: no gradient of theirs is computed."""


NO_GROWTH = Growth()


class Memory(NamedTuple):
    """Bytes that one worker needs at its peak."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    heap: int
    process: int

    @property
    def together(self) -> int:
        return sum(self)


def block_matrix_parameters(config: ModelConfig) -> int:
    """Weights of one block that multiply activations: qkv and out (4 d^2), gate, up and down (3 d d_ff)."""
    return 4 * config.d_model**2 + 3 * config.d_model * config.d_ff


def parameters(config: ModelConfig, vocab_size: int) -> int:
    """Number of parameters: embedding (which is also the head), blocks with two norms each, the last norm."""
    d = config.d_model
    return vocab_size * d + config.layers * (block_matrix_parameters(config) + 2 * d) + d


def low_rank_weights(config: ModelConfig, rank: int) -> int:
    """Weights of products of rank `rank` beside every matrix of the blocks: (out + in) rank each."""
    d = config.d_model
    return config.layers * rank * ((3 * d + d) + (d + d) + (2 * config.d_ff + d) + (d + config.d_ff))


def flops_per_token(config: ModelConfig, vocab_size: int, grown: int = 0, growth: Growth = NO_GROWTH) -> int:
    """Floating point operations that training spends on one token, forward and backward, at full context.

    PaLM (Chowdhery et al. 2022, appendix B): 6 for each parameter of a matrix product, and 12 layers d_model context
    for attention, causal masking not halved. The tied head counts once, as a product; looking up the embedding is free.
    Stages before have `grown` further weights, this one has its `growth`; a weight without a gradient takes 4.
    """
    before = _matrix_parameters(config, vocab_size) + grown
    products = (4 if growth.frozen else 6) * before + 6 * growth.weights
    return products + 12 * config.layers * config.d_model * config.context


def run_flops_per_token(config: ModelConfig, vocab_size: int, grown: int = 0) -> int:
    """What a forward pass spends on one token at full context, counted in the same way: a third."""
    return flops_per_token(config, vocab_size, grown) // 3


def _matrix_parameters(config: ModelConfig, vocab_size: int) -> int:
    return config.layers * block_matrix_parameters(config) + vocab_size * config.d_model


def memory(
    config: ModelConfig, vocab_size: int, *, rows: int, precision: str, held_out: int = 0, gpu: bool = False
) -> Memory:
    """The peak of one worker that trains `rows` sequences at once and evaluates `held_out` sequences.

    Weights, gradients and AdamW's two moments are float32 whatever the precision. Activations are the greatest of a
    backward's start, its end and an evaluation; with them alone the measured peak of training is met within 5 % (5m to
    42m on a CPU whose malloc gives back what is freed). An upper bound: a GPU's fused norm and attention keep
    3 d_model a token and layer less, torch.compile keeps fewer of the elementwise results, and HEAP is the worst seen.
    Not in it: what an intervention keeps (l2_sp a copy of the weights, distill a teacher).
    """
    weights = FLOAT32 * parameters(config, vocab_size)
    logits = FLOAT32 * config.context * vocab_size  # of one sequence, in float32
    # At a backward's start the gradients of the loss by its log-softmax and by the logits lie beside what is kept.
    start = kept(config, vocab_size, rows, precision) + 2 * rows * logits
    # At its end the embedding's gradients as head and as input, before they are added.
    end = 2 * FLOAT32 * vocab_size * config.d_model
    # An evaluation is float32 without gradients: logits and log-softmax.
    evaluation = 2 * min(rows_evaluated_at_once(config.context, vocab_size), held_out) * logits
    activations = max(start, end, evaluation)
    return Memory(weights, weights, 2 * weights, activations, 0 if gpu else HEAP * activations, PROCESS)


def rows_evaluated_at_once(context: int, vocab_size: int) -> int:
    """How many sequences an evaluation takes at once: at most 32, and 512 MiB of logits in float32."""
    return max(1, min(32, 2**27 // (context * vocab_size)))


def kept(config: ModelConfig, vocab_size: int, rows: int, precision: str) -> int:
    """Bytes that autograd keeps of a forward of `rows` sequences for its backward, parameters apart.

    A token, c bytes a number in the precision of products (letters of shapes as in transformer.py):
    each norm     its input and the normalised input, float32; the scaled result, which a product reads: (8 + c) D
    attention     qkv 3 D, the turned q and k 2 D, its result 2 D (as computed, and as the product reads it): 7 c D;
                  the log-sum-exp of each head: 4 H. Written out: v and the turned q and k 3 D, its result D: 4 c D;
                  the probabilities before and after scaling, T of each head: (4 + c) H T
    feed-forward  gate and up 2 F, silu(gate) F, its product with up F: 4 c F; written out one more: 5 c F
    the loss      log-softmax, float32: 4 V
    With bf16 also the bfloat16 copies of the matrices, whatever the tokens.
    """
    size = _size(precision)
    D, F, H, T = config.d_model, config.d_ff, config.heads, config.context
    norm = (2 * FLOAT32 + size) * D
    if config.implementation == "fundamentals":
        inner = 4 * size * D + (FLOAT32 + size) * H * T + 5 * size * F
    else:
        inner = 7 * size * D + FLOAT32 * H + 4 * size * F
    a_token = config.layers * (2 * norm + inner) + norm + FLOAT32 * vocab_size
    copies = size * _matrix_parameters(config, vocab_size) if size < FLOAT32 else 0
    return rows * T * a_token + copies


def _size(precision: str) -> int:
    return BFLOAT16 if precision == "bf16" else FLOAT32


def largest_micro_batch(batch: int, room: int, need: Callable[[int], Memory]) -> int | None:
    """The largest divisor n of `batch` whose `need(n)` is at most `room` bytes together; None where not even 1 fits."""
    divisors = (n for n in range(batch, 0, -1) if batch % n == 0)
    return next((n for n in divisors if need(n).together <= room), None)
