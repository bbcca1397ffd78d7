"""What a model costs to train: parameters, FLOPs, bytes of memory. Imports no torch, so planning is instant."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lethe.model.config import ModelConfig

FLOAT32, BFLOAT16 = 4, 2  # bytes
TOKENS_A_PARAMETER = 20  # Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models"
PROCESS = 480 * 2**20
"""Bytes that a trial's process holds besides its model, as measured on a CPU; the context of CUDA takes as much of a
GPU, about."""
HEAP = 2
"""Bytes that a CPU's heap keeps of what was freed, for each byte of activations: measured 0.3 to 1.9, because large
buffers stay in the heap (lethe.training.machine.keep_large_buffers) and training and evaluation take turns in it."""


class Growth(NamedTuple):
    """What a stage gives its model beside what the parent's has."""

    weights: int = 0
    """New ones, each in a product with every token; at most, where the data decide."""
    frozen: bool = False
    """Whether all other weights stay as they are in this stage: no gradient of theirs is computed."""
    kept: int = 0
    """Numbers that a token leaves in what is new, for the backward pass."""
    beside: bool = False
    """Whether the model so grown runs beside the parent's, as another model of a mixture; then nothing trains."""
    changed: int = 0
    """Where it does: weights of a plain model that it does not share with the parent's."""

    @property
    def parameters(self) -> int:
        """All that the model holds beside its parent's."""
        return self.weights + self.changed


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


def parameter_sizes(config: ModelConfig, vocab_size: int) -> dict[str, int]:
    """The parameters one by one, under the model's own names."""
    d = config.d_model
    sizes = {"embedding.weight": vocab_size * d, "norm.weight": d}
    sizes |= {f"blocks.{i}.{name}_norm.weight": d for i in range(config.layers) for name in ("attention", "ffn")}
    return sizes | {f"{name}.weight": rows * columns for name, (rows, columns) in matrices(config).items()}


def matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """The shapes (out, in) of the blocks' matrices, under the names of their modules."""
    d, d_ff = config.d_model, config.d_ff
    block = {"attention.qkv": (3 * d, d), "attention.out": (d, d), "ffn.gate_up": (2 * d_ff, d), "ffn.down": (d, d_ff)}
    return {f"blocks.{i}.{name}": shape for i in range(config.layers) for name, shape in block.items()}


def low_rank_weights(config: ModelConfig, rank: int) -> int:
    """Weights of products of rank `rank` beside every matrix of the blocks: (out + in) rank each."""
    return sum(rank * (rows + columns) for rows, columns in matrices(config).values())


def low_rank_kept(config: ModelConfig, rank: int) -> int:
    """Numbers that a token leaves in these products: their first factors', `rank` of each matrix."""
    return len(matrices(config)) * rank


def units_weights(config: ModelConfig, units: int) -> int:
    """Weights of `units` more units in every feed-forward."""
    return config.layers * 3 * config.d_model * units


def units_kept(config: ModelConfig, units: int) -> int:
    """Numbers that a token leaves in these units: gate, up, silu(gate) and its product with up."""
    return config.layers * 4 * units


class Running(NamedTuple):
    """What a token runs through in a model in which something has grown."""

    models: int
    """Whole ones: more than one in a mixture."""
    weights: int
    """Grown ones in products, wherever they stand in the mixture."""
    kept: int


def running(grown: Iterable[Growth]) -> Running:
    """Of a model in which each of `grown` has grown in turn; the models of a mixture go on from one another."""
    models, weights, kept, own_weights, own_kept = 1, 0, 0, 0, 0
    for growth in grown:
        own_weights, own_kept = own_weights + growth.weights, own_kept + growth.kept
        models += growth.beside
        weights += own_weights if growth.beside else growth.weights
        kept += own_kept if growth.beside else growth.kept
    return Running(models, weights, kept)


def held_parameters(config: ModelConfig, vocab_size: int, grown: Sequence[Growth]) -> int:
    """Parameters of a model in which each of `grown` has grown in turn, at most.

    What models of a mixture share counts once, unless a later stage has trained them all: then they share nothing.
    """
    plain, run = parameters(config, vocab_size), running(grown)
    if run.models > 1 and not grown[-1].beside:
        return run.models * plain + run.weights
    return plain + sum(growth.parameters for growth in grown)


def flops_per_token(
    config: ModelConfig, vocab_size: int, grown: Sequence[Growth] = (), growth: Growth = NO_GROWTH
) -> int:
    """Floating point operations that training spends on one token, forward and backward, at full context.

    PaLM (Chowdhery et al. 2022, appendix B): 6 for each parameter of a matrix product, and 12 layers d_model context
    for attention, causal masking not halved. The tied head counts once, as a product; looking up the embedding is free.
    In stages before something has `grown`, this one has its `growth`; a weight without a gradient takes 4.
    """
    before = running(grown)
    weights = before.models * _matrix_parameters(config, vocab_size) + before.weights
    products = (4 if growth.frozen else 6) * weights + 6 * growth.weights
    return products + 12 * before.models * config.layers * config.d_model * config.context


def run_flops_per_token(config: ModelConfig, vocab_size: int, grown: Sequence[Growth] = ()) -> int:
    """What a forward pass spends on one token at full context, counted in the same way: a third."""
    return flops_per_token(config, vocab_size, grown) // 3


def _matrix_parameters(config: ModelConfig, vocab_size: int) -> int:
    return config.layers * block_matrix_parameters(config) + vocab_size * config.d_model


def memory(
    config: ModelConfig,
    vocab_size: int,
    *,
    rows: int,
    precision: str,
    held_out: int = 0,
    gpu: bool = False,
    grown: Sequence[Growth] = (),
    growth: Growth = NO_GROWTH,
) -> Memory:
    """The peak of one worker that trains `rows` sequences at once and evaluates `held_out` sequences.

    Before the stage something has `grown`, in it its `growth`. Weights, gradients and AdamW's two moments are float32
    whatever the precision; what does not train has neither gradients nor moments. Activations are the greatest of a
    backward's start, its end and an evaluation; with them alone the measured peak of training is met within 5 % (5m to
    42m on a CPU whose malloc gives back what is freed). An upper bound: a GPU's fused norm and attention keep
    3 d_model a token and layer less, torch.compile keeps fewer of the elementwise results, what stands still beside
    new units keeps less, and HEAP is the worst seen.
    Not in it: what an intervention keeps (l2_sp a copy of the weights, distill a teacher).
    """
    stages = (*grown, growth)
    weights = FLOAT32 * held_parameters(config, vocab_size, stages)
    trained = 0 if growth.beside else FLOAT32 * growth.weights if growth.frozen else weights
    run = running(stages)
    logits = FLOAT32 * config.context * vocab_size  # of one sequence, in float32
    # At a backward's start the gradients of the loss by its log-softmax and by the logits lie beside what is kept; of a
    # mixture also those by its two sums, and what makes them.
    gradients = 5 if run.models > 1 else 2
    start = kept(config, vocab_size, rows, precision, grown, growth) + gradients * rows * logits
    # At its end the embedding's gradients as head and as input, before they are added.
    end = 2 * FLOAT32 * vocab_size * config.d_model
    # An evaluation is float32 without gradients: logits and log-softmax, or the logits of two parts and their sum.
    at_once = 3 if run.weights or run.models > 1 else 2
    evaluation = at_once * min(rows_evaluated_at_once(config.context, vocab_size), held_out) * logits
    activations = max(start, run.models * end, evaluation) if trained else evaluation
    return Memory(weights, trained, 2 * trained, activations, 0 if gpu else HEAP * activations, PROCESS)


def rows_evaluated_at_once(context: int, vocab_size: int) -> int:
    """How many sequences an evaluation takes at once: at most 32, and 512 MiB of logits in float32."""
    return max(1, min(32, 2**27 // (context * vocab_size)))


def kept(
    config: ModelConfig, vocab_size: int, rows: int, precision: str, grown: Sequence[Growth], growth: Growth
) -> int:
    """Bytes that autograd keeps of a forward of `rows` sequences for its backward, parameters apart.

    A token, c bytes a number in the precision of products (letters of shapes as in transformer.py):
    each norm     its input and the normalised input, float32; the scaled result, which a product reads: (8 + c) D
    attention     qkv 3 D, the turned q and k 2 D, its result 2 D (as computed, and as the product reads it): 7 c D;
                  the log-sum-exp of each head: 4 H. Written out: v and the turned q and k 3 D, its result D: 4 c D;
                  the probabilities before and after scaling, T of each head: (4 + c) H T
    feed-forward  gate and up 2 F, silu(gate) F, its product with up F: 4 c F; written out one more: 5 c F
    the loss      log-softmax, float32: 4 V
    With bf16 also the bfloat16 copies of the matrices, whatever the tokens.
    Each model of a mixture keeps as much, and each mixing two log-softmaxes and two sums, float32: 3 V more a model.
    What has grown keeps c times its `Growth.kept`. Beside what stands still a norm does not keep the normalised input,
    4 D; beside what trains too, with bf16, each growth reads another copy of the norms' results, 2 D.
    """
    size, stages = _size(precision), (*grown, growth)
    D, F, H, T = config.d_model, config.d_ff, config.heads, config.context
    norms, run = 2 * config.layers + 1, running(stages)
    if config.implementation == "fundamentals":
        inner = 4 * size * D + (FLOAT32 + size) * H * T + 5 * size * F
    else:
        inner = 7 * size * D + FLOAT32 * H + 4 * size * F
    norm = ((FLOAT32 if growth.frozen else 2 * FLOAT32) + size) * D
    a_token = run.models * (norms * norm + config.layers * inner) + FLOAT32 * vocab_size * (4 * run.models - 3)
    a_token += size * run.kept
    copies = 0
    if size < FLOAT32:
        copies = size * (run.models * _matrix_parameters(config, vocab_size) + run.weights)
        if not growth.frozen:
            a_token += size * D * norms * sum(each.kept > 0 for each in stages)
    return rows * T * a_token + copies


def _size(precision: str) -> int:
    return BFLOAT16 if precision == "bf16" else FLOAT32


def largest_micro_batch(batch: int, room: int, need: Callable[[int], Memory]) -> int | None:
    """The largest divisor n of `batch` whose `need(n)` is at most `room` bytes together; None where not even 1 fits."""
    divisors = (n for n in range(batch, 0, -1) if batch % n == 0)
    return next((n for n in divisors if need(n).together <= room), None)
