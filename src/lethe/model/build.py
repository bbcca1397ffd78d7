"""From a configuration to a model with drawn parameters."""

import hashlib
import math

import torch
from torch import Tensor, nn

from lethe.model.config import ModelConfig
from lethe.model.fundamentals import Transformer
from lethe.model.transformer import TorchTransformer


def build_model(config: ModelConfig, vocab_size: int) -> nn.Module:
    """The model in the implementation that `config` names; its parameters must still be drawn or loaded."""
    if config.implementation == "fundamentals":
        return Transformer(config, vocab_size)
    return TorchTransformer(config, vocab_size)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draw every parameter in place, from `seed` and the parameter's name alone.

    So neither the order of parameters, nor the implementation, nor the device, nor other draws change a value.
    Norms are ones, the rest normal with std sqrt(2 / (5 d_model)) (SmallInit, Nguyen & Salazar 2019, "Transformers
    without Tears"), divided by sqrt(2 layers) for the two projections of a block that write to the residual stream
    (GPT-2, Radford et al. 2019, section 2.3). At d_model 1024 that is GPT-2's 0.02; narrower models need more.
    """
    named = dict(model.named_parameters())
    small = math.sqrt(2 / (5 * named["embedding.weight"].shape[1]))
    writers = [name for name in named if name.endswith(("attention.out.weight", "ffn.down.weight"))]
    for name, parameter in named.items():
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
            continue
        std = small / math.sqrt(len(writers)) if name in writers else small
        parameter.copy_(drawn(parameter, parameter.shape, std, f"{seed}/{name}"))


def drawn(like: Tensor, shape: tuple[int, ...], std: float, words: str) -> Tensor:
    """Normal numbers from `words` alone, as float32 on the CPU, then of the type and on the device of `like`."""
    return torch.empty(shape).normal_(std=std, generator=seeded(words)).to(like)


def seeded(words: str) -> torch.Generator:
    """A generator on the CPU whose draws come from `words` alone."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little"))
