"""The model of `transformer.py` written out: every step a matrix product, a sum or an elementwise function.

Nothing here is hidden in a library layer, so that it can be read next to the papers; it is slower, has no cache, and
gives the same logits and gradients, to rounding. Letters of shapes: B batch, T tokens, V vocabulary, D d_model, H
heads, S = D / H features of a head, F d_ff.
"""

import math

import torch
from torch import Tensor, nn

from lethe.model.config import ModelConfig


class Transformer(nn.Module):
    """A decoder-only language model; its parameters are to be drawn (`build.initialise`) or loaded."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = Weight(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B, T, V] of the token after each of `ids` (int64 [B, T]); ValueError if T is over the context."""
        if ids.shape[1] > self.config.context:
            raise ValueError(f"found {ids.shape[1]} tokens; allowed: at most the context of {self.config.context}")
        x = self.embedding.weight[ids]  # [B, T, D]: a row for each token
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embedding.weight.T  # a token is likely where its own row points along x


class Weight(nn.Module):
    """One matrix [rows, columns] under the name `weight`, as in torch's layers: a checkpoint fits both models."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class RMSNorm(nn.Module):
    """Divide by the root of the mean square, then scale each feature (Zhang and Sennrich 2019)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.d_model))

    def forward(self, x: Tensor) -> Tensor:
        mean_square = (x * x).mean(dim=-1, keepdim=True)
        return x / torch.sqrt(mean_square + self.eps) * self.weight


class Block(nn.Module):
    """Attention, then feed-forward, each on a normalised copy of the residual stream and added back to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class Attention(nn.Module):
    """Each token reads from itself and the tokens before it (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.qkv = Weight(3 * config.d_model, config.d_model)
        self.out = Weight(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        T, D = x.shape[1:]
        q, k, v = (self.split_heads(part) for part in (x @ self.qkv.weight.T).split(D, dim=-1))
        q, k = rotate(q, self.config.rope_theta), rotate(k, self.config.rope_theta)

        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # [B, H, T, T]: row t asks, column s answers
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(diagonal=1)  # true where s > t
        attention = softmax(scores.masked_fill(future, -math.inf))

        y = attention.to(v.dtype) @ v  # [B, H, T, S]: for each token a mean of values, weighted by attention
        return y.transpose(1, 2).flatten(start_dim=2) @ self.out.weight.T

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, H, T, S]: head h gets features h S to (h + 1) S."""
        return x.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU: two products, one gating the other, and a third back to the stream (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Weight(2 * config.d_ff, config.d_model)
        self.down = Weight(config.d_model, config.d_ff)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (x @ self.gate_up.weight.T).chunk(2, dim=-1)  # each [B, T, F]
        return (gate * torch.sigmoid(gate) * up) @ self.down.weight.T


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum exp(x) over the last dimension, in float32.

    Taking off the maximum changes only the overflow, so no gradient goes through it.
    """
    x = x.float()
    exponential = torch.exp(x - x.detach().amax(dim=-1, keepdim=True))
    return exponential / exponential.sum(dim=-1, keepdim=True)


def rotate(x: Tensor, theta: float) -> Tensor:
    """Turn each pair of features of `x` [B, H, T, S] by an angle that grows with the position (Su et al. 2021).

    Pair i, of features i and i + S/2, turns by theta^(-2i/S) a token: the first pairs tell neighbours apart, the last
    ones far places. A query times a key then depends on how far they are apart, not on where they stand.
    """
    T, S = x.shape[-2:]
    pair = torch.arange(S // 2, device=x.device, dtype=torch.float32)
    position = torch.arange(T, device=x.device, dtype=torch.float32)
    angle = position[:, None] * theta ** (-2 * pair / S)  # [T, S/2]
    cos, sin = torch.cos(angle), torch.sin(angle)

    first, second = x.float()[..., : S // 2], x.float()[..., S // 2 :]
    turned = first * cos - second * sin, first * sin + second * cos
    return torch.cat(turned, dim=-1).to(x.dtype)
