"""Text from a model, a token at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lethe.model.fractured import GatedCache, cacheable

NUMBERS_AT_ONCE = 2**29
"""Keys and values (or, without a cache, logits) that are held at most when rows are sampled: 2 GiB in float32."""


def generate(
    model: nn.Module,
    ids: Tensor,
    *,
    context: int,
    tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float = 1.0,
    seed: int,
    vocab: int,
    stop: int | None,
) -> Iterator[int]:
    """At most `tokens` ids that continue `ids` (int64 [1, T], T > 0), each drawn (`pick`) after a window of the last.

    The window grows up to `context` ids; each time it is full, it lets go of its first half (`window_start`). Ids of
    `vocab` and over (rows that pad the embedding) are never drawn. Ends before `stop`. Draws come from `seed` alone.
    """
    generator, reader = torch.Generator().manual_seed(seed), _Reader(model, context)
    for _ in range(tokens):
        with torch.inference_mode():
            logits = reader.last_logits(ids)[:vocab].float().cpu()
        token = pick(logits, temperature, top_k, top_p, generator)
        if token == stop:
            return
        yield token
        ids = torch.cat((ids, ids.new_tensor([[token]])), dim=1)


@torch.no_grad()
def sample_rows(model: nn.Module, first: Tensor, context: int, vocab: int, generator: torch.Generator) -> Tensor:
    """Rows int64 [n, context + 1], on the CPU, that begin with `first` (int64 [n]); the model draws the rest.

    At temperature 1, after all ids before it. <eos> ends no row: like a window of training text, it goes on with
    another document. Ids of `vocab` and over are never drawn. Many rows at a time, each id read once.
    """
    device = next(model.parameters()).device
    cached = cacheable(model)
    a_row = 2 * cached.config.layers * context * cached.config.d_model if cached else context * vocab
    chunks = []
    for start in first.split(max(1, min(512, NUMBERS_AT_ONCE // a_row))):
        rows = start[:, None]
        cache = GatedCache(cached, len(start)) if cached else None
        for _ in range(context):
            logits = model(rows[:, -1:].to(device), cache) if cache else model(rows.to(device))
            probabilities = logits[:, -1, :vocab].float().softmax(-1).cpu()
            rows = torch.cat((rows, torch.multinomial(probabilities, 1, generator=generator)), dim=1)
        chunks.append(rows)
    return torch.cat(chunks)


def window_start(length: int, context: int) -> int:
    """The first of `length` ids that the next one is drawn after: 0, then half a context more each time it is full.

    It follows from the length alone, so a text goes on in the same way wherever its prompt ended. A window that moved
    with every token would change the position of all ids in it: nothing read before could be used again.
    """
    half = (context + 1) // 2
    return -(-max(length - context, 0) // half) * half


class _Reader:
    """A model with a growing text: one that a cache serves reads each id once a window, any other all each time."""

    def __init__(self, model: nn.Module, context: int) -> None:
        self.model, self.context, self.cached = model, context, cacheable(model)
        self.start = -1

    def last_logits(self, ids: Tensor) -> Tensor:
        """Logits [V] of the id that follows `ids` (int64 [1, T]), which begin with those of the call before."""
        start = window_start(ids.shape[1], self.context)
        if not self.cached:
            return self.model(ids[:, start:])[0, -1]
        if start != self.start:
            self.start, self.cache = start, GatedCache(self.cached, batch=1)
        return self.model(ids[:, start + self.cache.tokens :], self.cache)[0, -1]


def pick(logits: Tensor, temperature: float, top_k: int | None, top_p: float, generator: torch.Generator) -> int:
    """One id, drawn from `logits` (float32 [V], on the CPU) divided by `temperature` (0 takes the likeliest).

    Only the `top_k` likeliest (None or 0: all) can be drawn, and of these only the smallest set of likeliest ones
    whose probability reaches `top_p` (nucleus sampling, Holtzman et al. 2020, section 3.1; 1: all).
    """
    if temperature == 0:
        return int(logits.argmax())
    best, ids = logits.topk(min(top_k or len(logits), len(logits)))
    # Taken off the largest, in float64: no temperature overflows.
    probabilities = torch.softmax((best - best[0]).double() / temperature, dim=0)
    likelier = probabilities.cumsum(dim=0) - probabilities  # what all the ids before this one reach together
    nucleus = probabilities[likelier < top_p]
    return int(ids[torch.multinomial(nucleus.float(), 1, generator=generator)])
