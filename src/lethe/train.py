"""Train one stage without Ray: `python -m lethe.train CONFIG [key=value ...]`, alone or under torchrun.

It trains on token shards that are there, or on `corpora` that the datasets library can load: these are made into shards
first. The stage store is the one the grids use: a stage trained here is found there, and the other way round.
"""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from lethe.config import Config, UserError, override, read_yaml, validate
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.named import Corpora, by_name
from lethe.interventions import InterventionConfig
from lethe.model.config import ModelConfig, load_model_config
from lethe.program import parser, run_program
from lethe.tokens.tokenizer import TokenizerConfig
from lethe.training.stage import Stage, StageConfig
from lethe.training.store import StageStore


class TrainConfig(Config):
    """One stage: what it trains on, from which parent, and where its data and results lie."""

    storage: Path = Path()
    tokens: str | None = Field(None, description="a folder of data/tokens, or the name (bpe2048) of the newest")
    corpora: Corpora | None = Field(None, description="in place of tokens: data sets, made into shards where missing")
    tokenizer: TokenizerConfig | None = Field(None, description="of the shards that are made of corpora")
    model: ModelConfig
    mixture: dict[str, NonNegativeFloat] = Field(min_length=1)
    stage: StageConfig
    seed: NonNegativeInt = 0
    parent: str | None = Field(None, description="key of a finished stage; default: from scratch")
    keep_optimizer: bool = Field(False, description="keep AdamW's state, for a later stage to carry on")
    intervention: InterventionConfig = Field({"kind": "none"}, validate_default=True)
    device: Literal["cpu", "cuda"] = "cpu"
    threads: PositiveInt = 1
    micro_batch: PositiveInt | None = None

    @field_validator("model", mode="before")
    @classmethod
    def _resolve_model(cls, value: Any) -> Any:
        return load_model_config(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> Self:
        if (self.tokens is None) == (self.corpora is None):
            found = "neither" if self.tokens is None else "both"
            raise ValueError(f"tokens, corpora: found {found}; allowed: one of them")
        if self.tokens is not None and self.tokenizer is not None:
            raise ValueError("tokenizer: found beside tokens, which have theirs; allowed: with corpora")
        corpora = self.corpora or {}
        for name, corpus in corpora.items():
            if isinstance(corpus, CorpusConfig):
                raise ValueError(
                    f"corpora: found {name!r}, a domain, to be cut out of a source; allowed: data sets here; run "
                    "ray_jobs.tokenize on a grid's YAML, and name what it makes in tokens"
                )
        for name in self.mixture:
            if corpora and name not in corpora:
                raise ValueError(f"mixture: found {name!r}; allowed: {', '.join(corpora)}")
        return self


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    given = parser(__doc__, "a training YAML (configs/train)").parse_intermixed_args(argv)
    read = read_yaml(given.config)
    config = validate(TrainConfig, override(read._replace(data=by_name(read.data)), given.overrides))
    train(config)
    return 0


def train(config: TrainConfig) -> None:
    """Train the stage that `config` describes; prints every evaluation, and its folder at the end."""
    from lethe.tokens.meta import check_shards
    from lethe.tokens.shards import TokenData
    from lethe.training.job import Job
    from lethe.training.loop import run_stage
    from lethe.worker import Worker, process_group

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if config.device == "cuda" else "cpu"
    if config.stage.batch % world:
        raise UserError(f"stage.batch: found {config.stage.batch}; allowed: a multiple of the {world} ranks")
    data = TokenData(named_tokens(config) if config.tokens else _make_tokens(config))
    check_shards(data.root)
    store = StageStore(config.storage / "runs" / "stages")
    stage = _stage(config, store)
    measure = tuple(data.corpora), config.stage.evaluation, config.stage.checkpoint_every
    job = Job(stage, data, store, *measure, keep_optimizer=config.keep_optimizer)

    def report(step: int, values: dict[str, float]) -> None:
        print(f"step {step}/{stage.steps}  " + "  ".join(f"{name} {v:.4f}" for name, v in values.items()), flush=True)

    worker = Worker(rank, world, device, config.threads, config.micro_batch)
    with process_group(worker):
        run_stage(job, worker, report)
    if rank == 0:
        print(f"stage {job.key}  {store.folder(job.key)}")


def _stage(config: TrainConfig, store: StageStore) -> Stage:
    parent = None
    if config.parent:
        record = store.record(config.parent)
        if record is None:
            raise UserError(f"parent: found {config.parent!r}; allowed: the key of a finished stage in {store.root}")
        parent = Stage.model_validate(record["stage"])
    return Stage(
        model=config.model,
        mixture=config.mixture,
        tokens=config.stage.tokens,
        recipe=config.stage.recipe,
        seed=config.seed,
        intervention=config.intervention,
        parent=parent,
    ).with_reads()


def _make_tokens(config: TrainConfig) -> Path:
    """The folder of the token shards of `corpora`; whatever of it is missing is made here, one unit at a time."""
    from lethe.corpora.make import make_corpora
    from lethe.tokens.make import make_tokens

    assert config.corpora is not None
    storage = config.storage.resolve()
    corpora = make_corpora("", config.corpora, storage)
    return make_tokens(corpora, config.tokenizer or TokenizerConfig(), storage)


def named_tokens(config: TrainConfig) -> Path:
    """The folder of token shards that `tokens` names."""
    assert config.tokens is not None
    root = config.storage / "data" / "tokens"
    if (root / f"{config.tokens}.json").is_file():
        import json

        return root / json.loads((root / f"{config.tokens}.json").read_text())["folder"]
    return root / config.tokens if (root / config.tokens).is_dir() else config.storage / config.tokens


if __name__ == "__main__":
    run_program(main)
