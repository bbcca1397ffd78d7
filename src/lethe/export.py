"""Write a finished stage as a folder that `transformers` loads without any code of this project.

The architecture is Llama's, the weights are float32. The tokenizer begins a text with <eos>, as documents begin in
training and prompts in `lethe.validate`; add_special_tokens=False leaves it out. So
    model.generate(**tokenizer(TEXT, return_tensors="pt"), do_sample=False, max_new_tokens=N)
goes on as
    python -m lethe.validate --prompt TEXT --temperature 0 --tokens N
does, until the context is full: then transformers goes on at positions that the model never saw, and lethe lets go of
the beginning. A harness that puts <eos> before a text itself (rolling perplexity in lm-eval) needs add_bos_token=False.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.config import UserError
from lethe.files import write_json
from lethe.finished import FinishedStage, add_arguments, open_stage
from lethe.interventions import find
from lethe.model.config import ModelConfig
from lethe.program import run_program
from lethe.tokens.tokenizer import EOS, EOS_ID

if TYPE_CHECKING:
    from torch import Tensor

# Of a block, in our names and Llama's; where Llama has several matrices, ours holds their rows one after the other.
BLOCK_NAMES = {
    "attention_norm": ["input_layernorm"],
    "attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attention.out": ["self_attn.o_proj"],
    "ffn_norm": ["post_attention_layernorm"],
    "ffn.gate_up": ["mlp.gate_proj", "mlp.up_proj"],
    "ffn.down": ["mlp.down_proj"],
}


def main(argv: list[str]) -> int:
    """Write a stage's folder for transformers."""
    given = _parser().parse_args(argv)
    out = given.out.absolute()
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out: found {given.out}; allowed: a folder that does not exist, or is empty")
    finished = open_stage(given.checkpoint, given.config)
    check_llama(finished)
    with whole_folder(out) as folder:
        write(finished, folder)
    print(
        f"{given.out}: stage {finished.folder.name} for transformers' AutoModelForCausalLM and AutoTokenizer; "
        f"it generates as lethe.validate does up to its context, {finished.stage.model.context} tokens"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lethe.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    return parser


def check_llama(finished: FinishedStage) -> None:
    """Raise UserError for a model that an intervention, of this stage or an earlier one, gave another shape."""
    for stage in finished.stage.sequence:
        if find(stage.intervention.kind).reshapes:
            raise UserError(
                f"{finished.folder}: intervention: found {stage.intervention.kind!r}, which changes the model's "
                "architecture; allowed: a model that is a Llama"
            )


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, to be filled; it takes the place of `path` if all goes well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(finished: FinishedStage, folder: Path) -> None:
    """Fill the folder with the model, the tokenizer and their configurations."""
    from safetensors.torch import save

    model, rows, ids = finished.stage.model, finished.record["vocab_size"], finished.tokenizer.get_vocab_size()
    weights = save(llama_tensors(finished.model.state_dict()), metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(weights)  # unlike `save_file`, readable for whom the others are
    write_json(folder / "config.json", llama_config(model, rows))
    write_json(folder / "generation_config.json", generation_config(list(range(ids, rows))))
    write_json(folder / "tokenizer.json", begins_with_eos(json.loads(finished.data.tokenizer_path.read_bytes())))
    write_json(folder / "tokenizer_config.json", tokenizer_config(model.context))


def llama_tensors(state: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Our weights under Llama's names; the head is the embedding, and not written twice."""
    result = {
        "model.embed_tokens.weight": state["embedding.weight"],
        "model.norm.weight": state["norm.weight"],
    }
    for name, tensor in state.items():
        if name.startswith("blocks."):
            _, number, ours = name.removesuffix(".weight").split(".", 2)
            theirs = BLOCK_NAMES[ours]
            for each, part in zip(theirs, tensor.chunk(len(theirs)), strict=True):
                result[f"model.layers.{number}.{each}.weight"] = part.clone()
    return {name: tensor.cpu().contiguous() for name, tensor in result.items()}


def llama_config(model: ModelConfig, rows: int) -> dict[str, Any]:
    """`config.json`, with `rows` of the embedding; what transformers 4 and 5 name differently stands under both."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.heads,
        "head_dim": model.d_model // model.heads,
        "max_position_embeddings": model.context,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "rms_norm_eps": model.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": EOS_ID,
        "eos_token_id": EOS_ID,
        "torch_dtype": "float32",
        "dtype": "float32",
    }


def generation_config(padding: list[int]) -> dict[str, Any]:
    """`generation_config.json`: greedy, until <eos>; ids that only pad the embedding are never drawn."""
    config = {"do_sample": False, "bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID}
    return {**config, "suppress_tokens": padding} if padding else config


def begins_with_eos(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """`tokenizer.json` from ours: the same ids, after that of <eos>."""
    first = [{"SpecialToken": {"id": EOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": EOS, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    template = {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *second],
        "special_tokens": {EOS: {"id": EOS, "ids": [EOS_ID], "tokens": [EOS]}},
    }
    return {**tokenizer, "post_processor": template}


def tokenizer_config(context: int) -> dict[str, Any]:
    """`tokenizer_config.json`; the characters "<eos>" in a text are text, as they are in training."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "add_bos_token": True,
        "add_eos_token": False,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
    }


if __name__ == "__main__":
    run_program(main)
