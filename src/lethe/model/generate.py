"""Text from a model, a token at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def generate(
    model: nn.Module,
    ids: Tensor,
    *,
    context: int,
    tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    vocab: int,
    stop: int | None,
) -> Iterator[int]:
    """At most `tokens` ids that continue `ids` (int64 [1, T], T > 0), each drawn after the last `context` ids.

    Logits are divided by `temperature` (0 takes the likeliest), and only the `top_k` likeliest are drawn from. Ids of
    `vocab` and over (rows that pad the embedding) are never drawn. Ends before `stop`. Draws come from `seed` alone.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(tokens):
        with torch.inference_mode():
            logits = model(ids[:, -context:])[0, -1, :vocab].float().cpu()
        token = pick(logits, temperature, top_k, generator)
        if token == stop:
            return
        yield token
        ids = torch.cat((ids, ids.new_tensor([[token]])), dim=1)


def pick(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """One id, drawn from `logits` (float32 [V], on the CPU)."""
    if temperature == 0:
        return int(logits.argmax())
    best, ids = logits.topk(min(top_k or len(logits), len(logits)))
    choice = torch.multinomial(torch.softmax(best / temperature, dim=0), 1, generator=generator)
    return int(ids[choice])
