"""The trainers of nanoGPT and litgpt, from the folders that hold them; nothing of them is in this repository.

Each step does what the rival's own loop does between two batches, without its logging: that favours the rival.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.trainers import BETAS, CLIP, LEARNING_RATE, WEIGHT_DECAY, Precision, Trainer
from lethe.config import UserError
from lethe.model.config import ModelConfig

Make = Callable[[Precision, bool], Trainer]


def nanogpt(folder: Path, config: ModelConfig, vocab_size: int) -> Make:
    """Trainers of nanoGPT's `GPT` as train.py makes them on a CPU: always fp32, AdamW not fused."""
    gpt = _module(folder / "model.py", "nanogpt_model")

    def make(precision: Precision, compiled: bool) -> Trainer:
        torch.manual_seed(0)
        shape = {"n_layer": config.layers, "n_head": config.heads, "n_embd": config.d_model}
        raw = gpt.GPT(gpt.GPTConfig(**shape, block_size=config.context, vocab_size=vocab_size, bias=False, dropout=0.0))
        optimizer = raw.configure_optimizers(WEIGHT_DECAY, LEARNING_RATE, BETAS, "cpu")
        model: Any = torch.compile(raw) if compiled else raw

        def step(rows: Tensor) -> Tensor:
            inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
            _, loss = model(inputs, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        return Trainer("nanoGPT", precision, compiled, raw, step)

    return make


def litgpt(folder: Path, config: ModelConfig, vocab_size: int, weights: dict[str, Tensor]) -> Make:
    """Trainers as `litgpt pretrain` makes them with tied embeddings, of our own block and from our own `weights`.

    Its packages are looked for after all others, so that the project's versions win.
    """
    pretrain = _package(folder)
    import lightning
    from litgpt.utils import instantiate_torch_optimizer

    def make(precision: Precision, compiled: bool) -> Trainer:
        fabric = lightning.Fabric(
            accelerator="cpu", devices=1, precision={"bf16": "bf16-mixed", "fp32": "32-true"}[precision]
        )
        fabric.launch()
        with fabric.init_module(empty_init=True):
            raw = pretrain.GPT(_litgpt_config(pretrain, config, vocab_size))
        raw.transformer.wte.weight = raw.lm_head.weight
        raw.load_state_dict(_litgpt_weights(weights), strict=True)
        model = fabric.setup(torch.compile(raw) if compiled else raw)
        settings = {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "betas": BETAS}
        optimizer = instantiate_torch_optimizer("AdamW", model.parameters(), fused=False, **settings)
        optimizer = fabric.setup_optimizers(optimizer)

        def step(rows: Tensor) -> Tensor:
            inputs, targets = rows[:, :-1].contiguous().long(), rows[:, 1:].contiguous().long()
            loss = pretrain.chunked_cross_entropy(model(inputs), targets)
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=CLIP)
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        return Trainer("litgpt", precision, compiled, raw, step)

    return make


def litgpt_precision(folder: Path) -> Precision:
    """The precision that `litgpt pretrain` picks here when it is told none: `bf16` or `fp32`."""
    picked = _package(folder).get_default_supported_precision(training=True)
    return "bf16" if picked.startswith("bf16") else "fp32"


def _litgpt_config(pretrain: Any, config: ModelConfig, vocab_size: int) -> Any:
    return pretrain.Config(
        n_layer=config.layers,
        n_head=config.heads,
        n_embd=config.d_model,
        intermediate_size=config.d_ff,
        block_size=config.context,
        vocab_size=vocab_size,
        padded_vocab_size=vocab_size,
        rope_base=int(config.rope_theta),
        rotary_percentage=1.0,
        norm_eps=config.norm_eps,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        parallel_residual=False,
        bias=False,
    )


def _litgpt_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under litgpt's names: the two then compute the same function."""
    renamed = {"transformer.wte.weight": weights["embedding.weight"], "lm_head.weight": weights["embedding.weight"]}
    renamed["transformer.ln_f.weight"] = weights["norm.weight"]
    names = {
        "attention_norm.weight": "norm_1.weight",
        "attention.qkv.weight": "attn.qkv.weight",
        "attention.out.weight": "attn.proj.weight",
        "ffn_norm.weight": "norm_2.weight",
        "ffn.down.weight": "mlp.proj.weight",
    }
    for name, tensor in weights.items():
        if not name.startswith("blocks."):
            continue
        _, number, part = name.split(".", 2)
        block = f"transformer.h.{number}"
        if part == "ffn.gate_up.weight":
            renamed[f"{block}.mlp.fc_1.weight"], renamed[f"{block}.mlp.fc_2.weight"] = tensor.chunk(2)
        else:
            renamed[f"{block}.{names[part]}"] = tensor
    return renamed


def _module(path: Path, name: str) -> ModuleType:
    """A module from its file, whatever else is called `model`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def _package(folder: Path) -> Any:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        import litgpt.pretrain
    except ImportError as error:
        raise UserError(
            f"--litgpt: found no usable litgpt in {folder} ({error}); allowed: a folder made as docs/speed.md says"
        ) from None
    return litgpt.pretrain


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights, which training does not change."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
