"""A finished stage, opened with all that it takes to look at it; `lethe.validate` and `lethe.export` start from it."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.config import UserError, read_yaml, validate
from lethe.tokens.meta import check_shards
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import TokenizerConfig, load_tokenizer
from lethe.training.stage import Evaluation, Stage
from lethe.training.store import StageStore

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

    from lethe.train import TrainConfig


@dataclass(frozen=True)
class FinishedStage:
    """A finished stage, its model on `device`, and the tokens it was trained on."""

    folder: Path
    record: dict[str, Any]
    stage: Stage
    model: "nn.Module"
    data: TokenData
    tokenizer: "Tokenizer"
    sequences: int
    """How many held-out sequences of a corpus to evaluate on."""
    device: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments by which a program is told what to open."""
    parser.add_argument(
        "--checkpoint", required=True, type=Path, metavar="PATH", help="a folder of runs/stages, or its weights"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help="a training YAML that names the tokens, the device and the evaluation; default, and of a YAML that names "
        "corpora: the tokens of the storage that the stage lies in",
    )


def open_stage(path: Path, config_path: Path | None) -> FinishedStage:
    """The stage at `path` (its folder, or its model.safetensors) with its data.

    Raises UserError where there is no finished stage, its weights were altered, or the tokens or the configuration
    are not those it was trained with.
    """
    import torch

    from lethe.train import named_tokens
    from lethe.training.load import load_model

    folder = path.resolve().parent if path.is_file() else path.resolve()
    store = StageStore(folder.parent)
    record = store.record(folder.name)
    if record is None:
        raise UserError(
            f"--checkpoint: found {path}; allowed: the folder of a finished stage, or its model.safetensors "
            "(`python -m ray_jobs.run_grid GRID --plan` names the stages of a grid)"
        )
    stage = Stage.model_validate(record["stage"])
    tokens = folder.parent.parent.parent / "data" / "tokens" / record["tokens_folder"]
    sequences, device = Evaluation().sequences, "cuda" if torch.cuda.is_available() else "cpu"
    if config_path:
        config = _read_config(config_path, stage, record)
        sequences, device = config.stage.evaluation.sequences, config.device
        tokens = named_tokens(config) if config.tokens else tokens
    data = TokenData(tokens)
    check_shards(data.root)
    if data.tokenizer_fingerprint != record["data"]["tokenizer"]:
        raise UserError(
            f"{data.root}: another tokenizer than the one {folder} was trained with (--config names tokens)"
        )
    model = load_model(store, folder.name).to(device)
    return FinishedStage(folder, record, stage, model, data, load_tokenizer(data.tokenizer_path), sequences, device)


def _read_config(path: Path, stage: Stage, record: dict[str, Any]) -> "TrainConfig":
    """The training YAML at `path`; UserError if its model, or the tokenizer of its corpora, is not the stage's."""
    from lethe.train import TrainConfig

    config = validate(TrainConfig, read_yaml(path))
    found, allowed = config.model.model_dump(), stage.model.model_dump()
    for field in (field for field in found if found[field] != allowed[field]):
        raise UserError(f"{path}: model.{field}: found {found[field]}; allowed: {allowed[field]}, as in the checkpoint")
    size = (config.tokenizer or TokenizerConfig()).vocab_size
    if config.corpora and not record["tokens_folder"].startswith(f"bpe{size}-"):
        raise UserError(
            f"{path}: tokenizer.vocab_size: found {size}; allowed: as in the checkpoint, {record['tokens_folder']}"
        )
    return config
