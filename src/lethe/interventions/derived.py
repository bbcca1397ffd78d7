"""What interventions derive from the stages before a switch: rows of them, texts sampled from a model, a Fisher.

All are pure functions of the stages; what costs something, or holds text, is an artefact.
"""

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.config import UserError
from lethe.interventions.interface import Switch
from lethe.model.generate import sample_rows
from lethe.model.transformer import TorchTransformer
from lethe.tokens.tokenizer import EOS_ID
from lethe.training.batches import passes
from lethe.training.mixture import shuffled
from lethe.training.sampler import MixtureSampler
from lethe.training.stage import Stage

GAUGE_BIT = 2**31  # torch's generator on the CPU takes the lowest 32 bits of a seed


class Pool:
    """Rows of which a few ride along in every step, each as often as the others: a shuffled order per epoch."""

    def __init__(self, rows: Tensor, share: float, switch: Switch) -> None:
        stage, self.worker = switch.stage, switch.worker
        self.rows, self.seed = rows.numpy(), f"{stage.seed}/pool"
        self.a_step = max(1, round(share * stage.recipe.batch))
        self.tokens_a_pass = self.a_step * stage.model.context / self.worker.world
        self.tokens_a_pass /= passes(stage.recipe.batch, self.worker)

    def at(self, step: int) -> np.ndarray:
        """This rank's rows of a step: int64 [about a_step / world, context + 1]."""
        chosen = shuffled(np.arange(self.a_step) + step * self.a_step, len(self.rows), self.seed)
        return self.rows[chosen[self.worker.rank :: self.worker.world]]

    def mean(self, total: Tensor) -> Tensor:
        """From a pass's sum over the tokens of its rows to what, meaned over passes and ranks, is a mean over tokens.

        Passes may hold unequal shares of the rows, so a mean of their means would weigh some rows more.
        """
        return total / self.tokens_a_pass


def counts_of(switch: Switch, stage: Stage) -> np.ndarray:
    """How often each id was a target in a finished stage: int64 [V]."""
    return np.array(switch.record(stage)["unigram_counts"], dtype=np.int64)


def seen_counts(switch: Switch) -> np.ndarray:
    """The same of all stages before the switch."""
    return np.sum([counts_of(switch, stage) for stage in switch.parent.sequence], axis=0)


def log_unigram_ratio(switch: Switch, since: np.ndarray) -> Tensor:
    """log u_since / u_before of every id, float64 [V]: shares of the counts (int64 [V]) after the switch and of those
    before it, each count plus 1/2."""
    shares = [torch.from_numpy(counts).double() + 0.5 for counts in (since, seen_counts(switch))]
    one, other = ((share / share.sum()).log() for share in shares)
    return one - other


def seen_rows(switch: Switch, sequences: int) -> Tensor:
    """Rows that the stages before the switch trained on, evenly spread over them: int64 [n, context + 1]."""
    stages = [stage.trained for stage in switch.parent.sequence]
    ends = np.cumsum([stage.steps * stage.recipe.batch for stage in stages])
    slots = np.arange(sequences) * ends[-1] // sequences
    parts = []
    for stage, end, start in zip(stages, ends, [0, *ends[:-1]], strict=True):
        here = slots[(slots >= start) & (slots < end)] - start
        if len(here):
            parts.append(MixtureSampler(stage, switch.data).windows(here))
    return torch.from_numpy(np.concatenate(parts))


def buffer(switch: Switch, sequences: int) -> Tensor:
    """`seen_rows`, kept: what a run without the earlier corpora would still have of them."""
    make = lambda: {"rows": seen_rows(switch, sequences)}  # noqa: E731
    return switch.artefact(switch.parent, "buffer", {"sequences": sequences}, make)["rows"]


def self_samples(switch: Switch, sequences: int, start: str) -> Tensor:
    """Texts sampled from the parent's model at temperature 1, kept: int64 [n, context + 1].

    The first id of a row is drawn from the unigram counts of what the stages before the switch trained on (`start`
    unigram), or is <eos> (`eos`), from which only the beginnings of documents follow.
    """
    make = partial(_sampled, switch, sequences, start, switch.parent.seed)
    return switch.artefact(switch.parent, "self_samples", {"sequences": sequences, "start": start}, make)["rows"]


def gauge_rows(switch: Switch, sequences: int) -> np.ndarray:
    """As `self_samples` from a unigram-drawn id, but texts that no method trains on.

    From a seed that differs from the parent's in a bit that the generator reads: another stream, whatever the seed.
    """
    make = partial(_sampled, switch, sequences, "unigram", switch.parent.seed ^ GAUGE_BIT)
    return switch.artefact(switch.parent, "gauge_samples", {"sequences": sequences}, make)["rows"].numpy()


def _sampled(switch: Switch, sequences: int, start: str, seed: int) -> dict[str, Tensor]:
    parent, generator = switch.parent, torch.Generator().manual_seed(seed)
    first = torch.full((sequences,), EOS_ID)
    if start == "unigram":
        counts = torch.from_numpy(seen_counts(switch)).double()
        first = torch.multinomial(counts, sequences, replacement=True, generator=generator)
    vocab = int(np.flatnonzero(switch.data.byte_lengths)[-1]) + 1  # beyond it is padding
    return {"rows": sample_rows(switch.frozen(parent), first, parent.model.context, vocab, generator)}


def fisher(switch: Switch, sequences: int) -> dict[str, Tensor]:
    """The diagonal of the parent's Fisher information on rows it was trained on, kept: by parameter, per token."""

    def make() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(switch.parent.seed)
        model = switch.frozen(switch.parent)
        return diagonal_fisher(model, seen_rows(switch, sequences)[:, :-1].to(switch.worker.device), generator)

    return switch.artefact(switch.parent, "fisher", {"sequences": sequences}, make)


def diagonal_fisher(model: nn.Module, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """E_x E_{y ~ p(. | x)} [(d log p(y | x) / d theta_i)^2] by parameter, over `ids` (int64 [n, T]).

    The true Fisher (Kunstner et al. 2019): y is drawn from the model at every position, not read from the data. The
    gradient is squared for each sequence alone (squared after a sum over sequences, it would be another number). The y
    of a sequence are drawn independently given its ids, so scores at different positions do not correlate, and the
    square of their sum has the expectation of the sum of squares: divided by T it is a mean over tokens.
    """
    model.requires_grad_(True)
    named = dict(model.named_parameters())
    squares = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    for row in ids:
        logits = model(row[None])[0].float()
        probabilities = logits.detach().softmax(-1).cpu()
        labels = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), list(named.values()))
        for square, gradient in zip(squares.values(), gradients, strict=True):
            square.addcmul_(gradient, gradient)
    return {name: square / ids.numel() for name, square in squares.items()}


def input_moments(switch: Switch, sequences: int) -> dict[str, Tensor]:
    """X^T X of the inputs X of every matrix of the parent's model on rows it was trained on, kept: float32 [in, in].

    By parameter; of the tied embedding the inputs are the head's.
    """

    def make() -> dict[str, Tensor]:
        model = switch.frozen(switch.parent)
        if type(model) is not TorchTransformer:
            raise UserError(f"intervention {switch.stage.intervention.kind}: model.implementation: allowed: torch")
        rows = seen_rows(switch, sequences)[:, :-1].to(switch.worker.device)
        return {name: moment.float() for name, moment in second_moments(model, rows.split(16)).items()}

    return switch.artefact(switch.parent, "input_moments", {"sequences": sequences}, make)


@torch.no_grad()
def second_moments(model: TorchTransformer, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """As `input_moments`, of any ids (int64 [B, T] each), float64."""
    moments: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        x = x.flatten(0, 1).double()
        moments[name] = moments.get(name, 0) + x.T @ x

    hooks = [model.norm.register_forward_hook(lambda module, x, y: add("embedding.weight", y))]
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            hook = lambda module, x, name=name: add(f"{name}.weight", x[0])  # noqa: E731
            hooks.append(module.register_forward_pre_hook(hook))
    for ids in batches:
        model(ids)
    for handle in hooks:
        handle.remove()
    return moments
