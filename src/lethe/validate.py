"""Look at a finished stage: its losses and a few samples, or (with --prompt, --chat) what it makes of your text.

These models were trained to go on with a text, not to answer: a prompt is a beginning, and each line of a chat stands
alone.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.config import UserError, read_yaml, validate
from lethe.program import run_program
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import EOS_ID, load_tokenizer
from lethe.training.stage import Evaluation, Stage
from lethe.training.store import StageStore

if TYPE_CHECKING:
    from numpy import ndarray
    from tokenizers import Tokenizer
    from torch import nn

PROMPT_TOKENS = 16
SAMPLE_TOKENS = 100
TEMPERATURE = 0.8
TOP_K = 50


@dataclass(frozen=True)
class Checkpoint:
    """A finished stage with all it takes to run it."""

    folder: Path
    record: dict[str, Any]
    stage: Stage
    model: "nn.Module"
    data: TokenData
    tokenizer: "Tokenizer"
    held_out: "dict[str, ndarray]"
    """The sequences of each corpus to evaluate on, int64 [n, context + 1]."""
    device: str


def main(argv: list[str]) -> int:
    """Show a stage, go on with a prompt, or chat."""
    given = _parser().parse_args(argv)
    checkpoint = open_checkpoint(given.checkpoint, given.config)
    if given.chat:
        chat(checkpoint)
    elif given.prompt is not None:
        prompt = given.prompt.encode(errors="replace").decode()  # an argument may hold bytes that are no text
        print(prompt, end="")
        write(checkpoint, prompt, seed=0)
    else:
        describe(checkpoint)
        show_losses(checkpoint)
        show_samples(checkpoint)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lethe.validate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", required=True, type=Path, metavar="PATH", help="a folder of runs/stages, or its weights"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help="a training YAML that names the tokens, the device and the evaluation; default: those of the storage "
        "that the stage lies in",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--prompt", metavar="TEXT", help="go on with TEXT")
    mode.add_argument("--chat", action="store_true", help="go on with each line of the input, until its end or /quit")
    return parser


def open_checkpoint(path: Path, config_path: Path | None) -> Checkpoint:
    """The stage at `path` (its folder, or its model.safetensors) with its data.

    Raises UserError where there is no finished stage, its weights were altered, or the tokens or the configuration
    are not those it was trained with.
    """
    import torch

    from lethe.evaluation.losses import held_out_rows
    from lethe.training.load import load_model

    folder = path.resolve().parent if path.is_file() else path.resolve()
    store = StageStore(folder.parent)
    record = store.record(folder.name)
    if record is None:
        raise UserError(
            f"--checkpoint: found {path}; allowed: the folder of a finished stage, or its model.safetensors"
        )
    stage = Stage.model_validate(record["stage"])
    tokens = folder.parent.parent.parent / "data" / "tokens" / record["tokens_folder"]
    sequences, device = Evaluation().sequences, "cuda" if torch.cuda.is_available() else "cpu"
    if config_path:
        tokens, sequences, device = _from_config(config_path, stage)
    data = TokenData(tokens)
    if data.tokenizer_fingerprint != record["data"]["tokenizer"]:
        raise UserError(
            f"{data.root}: another tokenizer than the one {folder} was trained with (--config names tokens)"
        )
    context = stage.model.context
    held_out = {corpus: held_out_rows(data.split(corpus, "val"), context, sequences) for corpus in data.corpora}
    model = load_model(store, folder.name).to(device)
    return Checkpoint(folder, record, stage, model, data, load_tokenizer(data.tokenizer_path), held_out, device)


def _from_config(path: Path, stage: Stage) -> tuple[Path, int, str]:
    """Folder of tokens, held-out sequences and device; UserError if the model is not that of the stage."""
    from lethe.train import TrainConfig, tokens_folder

    config = validate(TrainConfig, read_yaml(path))
    found, allowed = config.model.model_dump(), stage.model.model_dump()
    for field in (field for field in found if found[field] != allowed[field]):
        raise UserError(f"{path}: model.{field}: found {found[field]}; allowed: {allowed[field]}, as in the checkpoint")
    return tokens_folder(config), config.stage.evaluation.sequences, config.device


def describe(checkpoint: Checkpoint) -> None:
    """Print what the stage is: its model, and the sequence of stages that ends in it."""
    model, made = checkpoint.stage.model, checkpoint.record["made_with"]
    count = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    print(f"stage {checkpoint.folder.name}")
    print(
        f"model: {count:,} parameters; {model.layers} layers, {model.heads} heads, d_model {model.d_model}, "
        f"d_ff {model.d_ff}, context {model.context}, vocabulary {checkpoint.record['vocab_size']:,}"
    )
    for number, stage in enumerate(checkpoint.stage.sequence, start=1):
        mixture = " + ".join(f"{share:.0%} {corpus}" for corpus, share in stage.mixture.items())
        kind, parameters = stage.intervention.kind, stage.intervention.parameters
        intervention = " ".join([kind, *(f"{name}={value}" for name, value in parameters.items())])
        tokens = stage.steps * stage.tokens_per_step
        print(f"{number}. {mixture}: {tokens:,} tokens in {stage.steps:,} steps, {intervention}, seed {stage.seed}")
    print(f"trained with torch {made['torch']} on {made['processor']} in {checkpoint.record['seconds']:.0f} s")


def show_losses(checkpoint: Checkpoint) -> None:
    """Print loss, perplexity and bits per byte on held-out text of every corpus that the stage's tokens hold."""
    from lethe.evaluation.losses import evaluate
    from lethe.worker import Worker

    rows, worker = checkpoint.held_out, Worker(device=checkpoint.device)
    values = evaluate(checkpoint.model, rows, checkpoint.data.byte_lengths, worker)
    width = max(len("corpus"), *map(len, rows))
    print(f"\n{'corpus':{width}}  sequences    loss  perplexity  bits per byte")
    for name in rows:
        loss, bits = values[f"loss/{name}"], values[f"bpb/{name}"]
        print(f"{name:{width}}  {len(rows[name]):9,}  {loss:6.4f}  {math.exp(loss):10,.2f}  {bits:13.4f}")


def show_samples(checkpoint: Checkpoint) -> None:
    """Print how the model goes on with the beginning of each corpus's held-out text."""
    print(f"\nsamples (temperature {TEMPERATURE}, top {TOP_K}, seed 0)")
    for corpus, rows in checkpoint.held_out.items():
        beginning = checkpoint.tokenizer.decode(rows[0, : min(PROMPT_TOKENS, rows.shape[1] // 2)].tolist())
        print(f"{corpus}: [{beginning}]", end="")
        write(checkpoint, beginning, seed=0)


def chat(checkpoint: Checkpoint) -> None:
    """Go on with each line of the standard input, until its end or /quit."""
    asks = sys.stdin.isatty()
    for seed in range(sys.maxsize):
        print("> " if asks else "", end="", flush=True)
        line = sys.stdin.buffer.readline().decode(errors="replace")
        if not line or line.strip() == "/quit":
            return
        write(checkpoint, line.strip(), seed)


def write(checkpoint: Checkpoint, prompt: str, seed: int) -> None:
    """Print, as it comes, how the model goes on with the prompt, as the beginning of a document."""
    import torch

    from lethe.model.generate import generate

    ids = torch.tensor([[EOS_ID, *checkpoint.tokenizer.encode(prompt).ids]], device=checkpoint.device)
    continuation = generate(
        checkpoint.model,
        ids,
        context=checkpoint.stage.model.context,
        tokens=SAMPLE_TOKENS,
        temperature=TEMPERATURE,
        top_k=TOP_K,
        seed=seed,
        vocab=checkpoint.tokenizer.get_vocab_size(),
        stop=EOS_ID,
    )
    for piece in as_text(checkpoint.tokenizer, continuation):
        print(piece, end="", flush=True)
    print()


def as_text(tokenizer: "Tokenizer", ids: Iterator[int]) -> Iterator[str]:
    """The text of ids as they come; a character whose bytes are not all there yet is held back."""
    seen: list[int] = []
    text, shown = "", 0
    for token in ids:
        seen.append(token)
        text = tokenizer.decode(seen)
        whole = len(text.rstrip("\ufffd"))
        yield text[shown:whole]
        shown = max(shown, whole)
    yield text[shown:]


if __name__ == "__main__":
    run_program(main)
