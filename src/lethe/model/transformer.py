"""The model on torch's parts: Llama's block (RMSNorm, rotary positions, SwiGLU, no biases), the head tied.

`fundamentals.py` holds the same model written out. Letters of shapes: B batch, T tokens, V vocabulary, D d_model,
H heads, S = D / H features of a head, F d_ff.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.model.config import ModelConfig


class TorchTransformer(nn.Module):
    """A decoder-only language model; its parameters are to be drawn (`build.initialise`) or loaded."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)

    def forward(self, ids: Tensor, cache: "Cache | None" = None) -> Tensor:
        """Logits [B, T, V] of the token after each of `ids` (int64 [B, T]).

        With a cache, `ids` go on from the tokens it holds, and are added to them. Raises ValueError where all the
        tokens together are more than the context.
        """
        config, start = self.config, cache.tokens if cache else 0
        end = start + ids.shape[1]
        if end > config.context:
            raise ValueError(f"found {end} tokens; allowed: at most the context of {config.context}")
        positions = torch.arange(start, end, device=ids.device, dtype=torch.float32)
        rotation = rotary_tables(positions, config.d_model // config.heads, config.rope_theta)
        x = self.embedding(ids)  # [B, T, D]
        for i, block in enumerate(self.blocks):
            x = block(x, rotation, cache.memory[i, ..., :end, :] if cache else None)
        if cache:
            cache.tokens = end
        return F.linear(self.norm(x), self.embedding.weight)  # the tied head: its weights are the embedding's


class Cache:
    """What a model remembers of `batch` texts, so that a token that goes on with them costs a pass over itself alone.

    A later token asks of an earlier one nothing but its keys and values, and these never change: attention is causal.
    For generation, without gradients.
    """

    def __init__(self, model: TorchTransformer, batch: int) -> None:
        config = model.config
        shape = (config.layers, 2, batch, config.heads, config.context, config.d_model // config.heads)
        self.memory = model.embedding.weight.new_empty(shape)  # of each block, keys (rotated) and values
        self.tokens = 0


class Block(nn.Module):
    """Attention, then feed-forward, each on a normalised copy of the residual stream and added back to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], memory: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation, memory)
        return x + self.ffn(self.ffn_norm(x))


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], memory: Tensor | None = None) -> Tensor:
        """`memory` is [2, B, H, earlier tokens + T, S]: keys and values, the last T of them still to be filled in."""
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # [B, H, 3, T, S], and of it each [B, H, T, S]
        q, k = rotate(q, rotation), rotate(k, rotation)
        mask = None
        if memory is not None:
            earlier = memory.shape[3] - T
            memory[..., earlier:, :] = torch.stack((k, v))  # kept in the cache
            k, v = memory
            # Row t is the token at earlier + t, and sees that one and those before it.
            mask = torch.ones(T, earlier + T, dtype=torch.bool, device=x.device).tril(earlier)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        return self.out(y.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # each [B, T, F]
        return self.down(F.silu(gate) * up)


def rotary_tables(positions: Tensor, S: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, S/2] of the rotary angles, position * theta^(-2i/S) (RoFormer, Su et al. 2021).

    `positions` is float32 [T]. Computed at each step, which costs next to nothing: no buffer can then be lost, moved
    late or rounded.
    """
    frequency = 1.0 / theta ** (torch.arange(0, S, 2, device=positions.device, dtype=torch.float32) / S)
    angle = torch.outer(positions, frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn feature i with feature i + S/2 of `x` [B, H, T, S] by the angle of its position (the layout of Llama)."""
    cos, sin = rotation
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
