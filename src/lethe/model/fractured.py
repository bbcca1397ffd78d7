"""A frozen model, its trunk, and what grew beside it: scaled at each token by a gate that the tokens so far open.

At the cut all that grew gives 0, so the logits are the trunk's whatever the gate; where the gate is 0 they are the
trunk's for ever. Letters of shapes as in `transformer.py`; R rank, U units, N rows of the embedding that have a delta.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.config import UserError
from lethe.model.build import drawn
from lethe.model.routed import faded_sum
from lethe.model.transformer import Cache, FeedForward, TorchTransformer


class Gate:
    """What the parts of one fracture share in a forward pass."""

    now: Tensor | None = None
    """[B, T, 1], each in [0, 1]; None outside of a pass, where the trunk is itself."""
    hidden: Tensor
    """The last states, which the head reads, [B, T, D]."""


class LowRank(nn.Module):
    """b a beside a matrix [out, in]: `a` [R, in] is drawn as a layer's input weights would be, `b` [out, R] is 0."""

    def __init__(self, weight: Tensor, rank: int, seed: str) -> None:
        super().__init__()
        self.a = nn.Parameter(drawn(weight, (rank, weight.shape[1]), weight.shape[1] ** -0.5, seed))
        self.b = nn.Parameter(weight.new_zeros(weight.shape[0], rank))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        low = F.linear(x, self.a)
        return F.linear(gate.to(low.dtype) * low, self.b)


class Clone(nn.Module):
    """A matrix beside a matrix [out, in], 0 at first: with gate 1 the two are a copy that trains."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros_like(weight))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        y = F.linear(x, self.delta)
        return gate.to(y.dtype) * y


class Units(nn.Module):
    """U more units beside a SwiGLU: `gate_up` [2 U, D] is drawn as the model's own, `down` [D, U] is 0."""

    def __init__(self, ffn: FeedForward, units: int, seed: str) -> None:
        super().__init__()
        weight, d_model = ffn.down.weight, ffn.down.weight.shape[0]
        self.gate_up = nn.Parameter(drawn(weight, (2 * units, d_model), (2 / (5 * d_model)) ** 0.5, seed))
        self.down = nn.Parameter(weight.new_zeros(d_model, units))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        opened, up = F.linear(x, self.gate_up).chunk(2, dim=-1)  # each [B, T, U]
        y = F.linear(F.silu(opened) * up, self.down)
        return gate.to(y.dtype) * y


class EmbeddingDelta(nn.Module):
    """A delta [N, D] on rows of the embedding, as input and as head; `rows` (int64 [N]) None: on all V."""

    rows: Tensor | None
    place: Tensor

    def __init__(self, weight: Tensor, rows: Tensor | None) -> None:
        super().__init__()
        count = len(weight) if rows is None else len(rows)
        self.delta = nn.Parameter(weight.new_zeros(count, weight.shape[1]))
        self.register_buffer("rows", None if rows is None else rows.to(weight.device))
        if rows is not None:
            place = torch.full((len(weight),), -1, device=weight.device)
            place[self.rows] = torch.arange(count, device=weight.device)
            self.register_buffer("place", place, persistent=False)  # of each id among `rows`, -1: not there

    def embed(self, ids: Tensor, gate: Tensor) -> Tensor:
        """What comes to the embedding of `ids` (int64 [B, T]): [B, T, D]."""
        if self.rows is None:
            return gate * F.embedding(ids, self.delta)
        place = self.place[ids]
        return gate * (place >= 0)[..., None] * F.embedding(place.clamp(min=0), self.delta)

    def add_logits(self, logits: Tensor, hidden: Tensor, gate: Tensor) -> Tensor:
        """`logits` [B, T, V] and what the delta makes of the last states [B, T, D]."""
        more = F.linear(gate.to(hidden.dtype) * hidden, self.delta)
        return logits + more if self.rows is None else logits.index_add(-1, self.rows, more)


class Router(nn.Module):
    """The gate from the ids alone: naive Bayes on unigrams, its evidence faded by `gamma`, softened by `sharpness`.

    s_t = gamma s_{t-1} + log u_B(x_t) / u_A(x_t) and g_t = sigmoid(prior + sharpness s_t): it reads no id after the
    t-th.
    """

    log_ratio: Tensor  # [V], float32

    def __init__(self, log_ratio: Tensor, gamma: float, sharpness: float, prior: float) -> None:
        super().__init__()
        self.register_buffer("log_ratio", log_ratio)
        self.gamma, self.sharpness, self.prior = gamma, sharpness, prior

    def forward(self, ids: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gate [B, T, 1] of `ids` (int64 [B, T]), and s [B] at the last of them; `before` is s before the first."""
        ratios = self.log_ratio[ids]
        if before is not None:
            ratios = torch.cat((ratios[:, :1] + self.gamma * before[:, None], ratios[:, 1:]), dim=1)
        evidence = faded_sum(ratios, self.gamma)
        return (self.prior + self.sharpness * evidence).sigmoid()[..., None], evidence[:, -1]


Grow = Callable[[str, nn.Module, str], nn.Module | None]
"""From a module's name, itself and a seed of its own to the part that grows beside it, or None."""


def low_rank_beside(rank: int) -> Grow:
    """A product of `rank` beside every matrix."""
    return lambda name, module, seed: LowRank(module.weight, rank, seed) if isinstance(module, nn.Linear) else None


def units_beside(count: int) -> Grow:
    """`count` units in every feed-forward."""
    return lambda name, module, seed: Units(module, count, seed) if isinstance(module, FeedForward) else None


def clones_beside(chosen: Callable[[str], bool]) -> Grow:
    """A whole matrix beside each whose name is `chosen`."""
    return lambda name, module, seed: Clone(module.weight) if isinstance(module, nn.Linear) and chosen(name) else None


class GatedCache(Cache):
    """A cache that also holds the routers' evidence, [B] each, by how many fractures lie inside of theirs."""

    def __init__(self, model: TorchTransformer, batch: int) -> None:
        super().__init__(model, batch)
        self.evidence: dict[int, Tensor] = {}


class Fractured(nn.Module):
    """`trunk`, to be frozen, and what grows beside it: parts beside modules of its blocks (`grow`), and a delta of the
    embedding, unless that is None.

    The trunk is a TorchTransformer or made around one, a fractured one for example. A part takes the input of its
    module and the gate, and gives what comes to the module's output. Without a router the gate is 1. What is drawn
    comes from the seed, the number of fractures inside, and the module's name alone. The parts hang on the modules by
    hooks: the trunk keeps its names, and stays open to whatever looks into it.
    """

    def __init__(
        self,
        trunk: nn.Module,
        embedding: EmbeddingDelta | None,
        router: Router | None,
        grow: Grow,
        seed: int,
    ) -> None:
        super().__init__()
        self.trunk, self.embedding, self.router, self.gate = trunk, embedding, router, Gate()
        self.inside = sum(isinstance(module, Fractured) for module in trunk.modules())
        self.parts = nn.ModuleDict()
        transformer = transformer_in(trunk)
        for name, module in transformer.blocks.named_modules(prefix="blocks"):
            if part := grow(name, module, f"{seed}/fracture {self.inside}/{name}"):
                self.parts[name.replace(".", "_")] = part
                module.register_forward_hook(partial(self._add, part))
        if embedding:
            transformer.embedding.register_forward_hook(self._embed)
            transformer.norm.register_forward_hook(self._keep_hidden)

    def forward(self, ids: Tensor, cache: GatedCache | None = None) -> Tensor:
        """Logits [B, T, V] of the token after each of `ids` (int64 [B, T]); those after t depend on nothing after it.

        A cache serves where `cacheable` finds a transformer for it.
        """
        gate = self.gate
        if self.router is None:
            gate.now = torch.ones(1, 1, 1, device=ids.device)
        else:
            gate.now, evidence = self.router(ids, cache.evidence.get(self.inside) if cache else None)
            if cache:
                cache.evidence[self.inside] = evidence
        logits = self.trunk(ids, cache) if cache else self.trunk(ids)
        if self.embedding:
            logits = self.embedding.add_logits(logits, gate.hidden, gate.now)
            del gate.hidden
        gate.now = None
        return logits

    def _add(self, part: nn.Module, module: nn.Module, x: tuple[Tensor], y: Tensor) -> Tensor:
        return y if self.gate.now is None else y + part(x[0], self.gate.now)

    def _embed(self, module: nn.Module, ids: tuple[Tensor], y: Tensor) -> Tensor:
        assert self.embedding is not None
        return y if self.gate.now is None else y + self.embedding.embed(ids[0], self.gate.now)

    def _keep_hidden(self, module: nn.Module, x: Any, y: Tensor) -> None:
        self.gate.hidden = y


def transformer_in(model: nn.Module) -> TorchTransformer:
    """The one that `model` is or is made around; UserError where it is none, or several."""
    found = [module for module in model.modules() if isinstance(module, TorchTransformer)]
    if len(found) != 1:
        raise UserError(
            f"intervention: found a model of {len(found)} transformers of implementation torch, beside which to grow; "
            "allowed: one"
        )
    return found[0]


def cacheable(model: nn.Module) -> TorchTransformer | None:
    """The transformer whose cache serves `model` too, with fractures or without; None where there is none."""
    while type(model) is Fractured:
        model = model.trunk
    return model if type(model) is TorchTransformer else None
