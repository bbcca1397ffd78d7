"""The model on torch's parts: Llama's block (RMSNorm, rotary positions, SwiGLU, no biases), the head tied.

`fundamentals.py` holds the same model written out. Letters of shapes: B batch, T tokens, V vocabulary, D d_model,
H heads, S = D / H features of a head, F d_ff.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lethe.model.config import ModelConfig


class TorchTransformer(nn.Module):
    """A decoder-only language model; its parameters are to be drawn (`initialise`) or loaded."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B, T, V] of the token after each of `ids` (int64 [B, T]); ValueError if T is over the context."""
        config, tokens = self.config, ids.shape[1]
        if tokens > config.context:
            raise ValueError(f"found {tokens} tokens; allowed: at most the context of {config.context}")
        rotation = rotary_tables(tokens, config.d_model // config.heads, config.rope_theta, ids.device)
        x = self.embedding(ids)  # [B, T, D]
        for block in self.blocks:
            x = block(x, rotation)
        return F.linear(self.norm(x), self.embedding.weight)


class Block(nn.Module):
    """Attention, then feed-forward, each on a normalised copy of the residual stream and added back to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation)
        return x + self.ffn(self.ffn_norm(x))


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # each [B, H, T, S]
        y = F.scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v, is_causal=True)
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


def rotary_tables(T: int, S: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, S/2] of the rotary angles, position * theta^(-2i/S) (RoFormer, Su et al. 2021).

    Computed at each step, which costs next to nothing: no buffer can then be lost, moved late or rounded.
    """
    frequency = 1.0 / theta ** (torch.arange(0, S, 2, device=device, dtype=torch.float32) / S)
    angle = torch.outer(torch.arange(T, device=device, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn feature i with feature i + S/2 of `x` [B, H, T, S] by the angle of its position (the layout of Llama)."""
    cos, sin = rotation
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
