"""A grid's YAML: the experiment as a validated value. Every name in it is resolved here, and nowhere else."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lethe.bucket import Bucket
from lethe.config import Config, RawConfig, UserError, override, read_yaml, validate
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.named import Corpora, Name, by_name, names
from lethe.corpora.source import OnBadFile
from lethe.files import fingerprint
from lethe.interventions import PLAIN, InterventionConfig
from lethe.model.config import ModelConfig, load_model_config
from lethe.tokens.tokenizer import TokenizerConfig
from lethe.training.stage import StageConfig

Ratio = Annotated[float, Field(ge=0, lt=1)]


class GridStage(StageConfig):
    """The part of the grid that all stages share."""

    interleaving: Literal["replace", "add"] = "replace"
    max_epochs: PositiveFloat = Field(1, description="how often a corpus may be read over a sequence")
    frozen_after: PositiveFloat = Field(
        1800,
        description="seconds of silence, but 20 times the longest before, after which a process is killed",
    )
    relearning_tokens: PositiveInt | None = Field(
        None, description="budget of a side branch that trains on each earlier corpus again; default: there is none"
    )


class Resources(Config):
    """What a model gets; more than one worker means DDP under Ray Train."""

    workers: PositiveInt = 1
    cpus: PositiveFloat = Field(1, description="a worker")
    gpus: Annotated[float, Field(ge=0)] = Field(0, description="a worker; below 1 several cells share a GPU")
    fit: bool = Field(False, description="a share of a GPU, or several, by the memory the model needs; sets the above")
    autoscaled: bool = Field(False, description="the cluster grows when asked: wait for what it does not have yet")
    threads: PositiveInt = 1
    micro_batch: PositiveInt | None = Field(None, description="sequences at once in memory; default: all of a step's")

    @model_validator(mode="after")
    def _only_one_says(self) -> Self:
        if self.fit and not self.model_fields_set.isdisjoint({"workers", "gpus"}):
            raise ValueError("found fit beside workers or gpus; allowed: one of them")
        if self.fit:
            object.__setattr__(self, "gpus", 1.0)  # until the GPUs are known
        return self


class Part(Config):
    """One stage of a baseline: a mixture and its budget."""

    mixture: dict[str, Annotated[float, Field(ge=0)]]
    tokens: PositiveInt | None = Field(None, description="default: stage.tokens for each corpus of the mixture")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"mixture": {value: 1.0}}
        if isinstance(value, dict) and "mixture" not in value:
            return {"mixture": value}
        return value

    @model_validator(mode="after")
    def _some_weight(self) -> "Part":
        if sum(self.mixture.values()) <= 0:
            raise ValueError(f"found {self.mixture}; allowed: at least one weight above 0")
        return self


class Axes(Config):
    """One product of a grid with several: what it leaves out is the whole axis of the grid."""

    baselines: tuple[Name, ...] | None = None
    models: tuple[Name, ...] | None = None
    interleaving_ratios: tuple[Ratio, ...] | None = None
    interventions: tuple[Name, ...] | None = None
    seeds: tuple[NonNegativeInt, ...] | None = None


class Grid(Config):
    """The experiment. `storage` is absolute, names of corpora and models are their configurations."""

    name: Name
    description: str = ""
    storage: Path = Path()
    bucket: str | None = Field(None, description="s3:// or gs://, where the storage lies; `storage` is then a copy")
    source: str = "sample"
    on_bad_file: OnBadFile = Field("refuse", description="skip: name and count what cannot be read, and go on")
    corpora: Corpora = Field(min_length=1)
    tokenizer: TokenizerConfig = TokenizerConfig()
    models: dict[Name, ModelConfig] = Field(min_length=1)
    baselines: dict[Name, tuple[Part, ...]] = Field(min_length=1)
    interleaving_ratios: tuple[Ratio, ...] = Field((0.0,), min_length=1)
    interventions: dict[Name, InterventionConfig] = Field({"none": PLAIN}, min_length=1, validate_default=True)
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    stage: GridStage
    resources: dict[Name, Resources] = {}
    grids: tuple[Axes, ...] = ()

    @field_validator("bucket")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        scheme, mark, place = (uri or "s3://bucket").partition("://")
        if scheme not in ("s3", "gs") or not mark or not place:
            raise ValueError(f"found {uri!r}; allowed: s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
        if "@" in place:
            raise ValueError("found a URI with credentials; allowed: without, they come from the environment")
        return uri

    @field_validator("models", mode="before")
    @classmethod
    def _resolve_models(cls, value: Any) -> Any:
        return {name: load_model_config(name) for name in names(value)}

    @field_validator("baselines", mode="before")
    @classmethod
    def _resolve_baselines(cls, value: Any, info: ValidationInfo) -> Any:
        """Names of the built-in ones, or `{NAME: [stage, ...]}`; a stage is a corpus or a mixture."""
        corpora = list(info.data.get("corpora", ("A", "B")))  # not there when they are wrong themselves
        result: dict[str, Any] = {}
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, str):
                result[entry] = _built_in(entry, corpora)
            elif isinstance(entry, dict) and all(isinstance(parts, list) and parts for parts in entry.values()):
                result |= entry
            else:
                raise ValueError(f"found {entry!r}; allowed: a built-in name, or {{NAME: [CORPUS or MIXTURE, ...]}}")
        return result

    @field_validator("baselines")
    @classmethod
    def _known_corpora(cls, value: dict[str, tuple[Part, ...]], info: ValidationInfo) -> dict[str, tuple[Part, ...]]:
        used = [corpus for parts in value.values() for part in parts for corpus in part.mixture]
        corpora = info.data.get("corpora", used)
        for corpus in used:
            if corpus not in corpora:
                raise ValueError(f"found {corpus!r}; allowed: the corpora of this grid: {', '.join(corpora)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Grid":
        problems = [
            f"resources: found {name!r}; allowed: default, {', '.join(self.models)}"
            for name in self.resources
            if name not in ("default", *self.models)
        ]
        for i, axes in enumerate(self.grids):
            for axis in ("baselines", "models", "interventions"):
                problems += [
                    f"grids[{i}].{axis}: found {name!r}; allowed: {', '.join(getattr(self, axis))}"
                    for name in getattr(axes, axis) or ()
                    if name not in getattr(self, axis)
                ]
        for name, model in self.models.items():
            batch, asked = self.stage.batch, self.resources_of(name)
            for field in ("tokens", "relearning_tokens"):
                found = getattr(self.stage, field)
                if found is not None and found < batch * model.context:
                    problems.append(
                        f"stage.{field}: found {found:,}; allowed: at least one batch, "
                        f"{batch * model.context:,} tokens for model {name}"
                    )
            if batch % (asked.workers * (asked.micro_batch or 1)):
                problems.append(
                    f"stage.batch: found {batch}; allowed: a multiple of the {asked.workers} workers x "
                    f"{asked.micro_batch or 1} sequences of a micro-batch of {name}"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def resources_of(self, model: str) -> Resources:
        return self.resources.get(model) or self.resources.get("default") or Resources()

    def domains(self, program: str) -> dict[str, CorpusConfig]:
        """The corpora that are cut out of the source; raises UserError, on behalf of a program, where none is."""
        found = {name: corpus for name, corpus in self.corpora.items() if isinstance(corpus, CorpusConfig)}
        if not found:
            raise UserError(f"corpora: found data sets only; allowed for {program}: at least one domain")
        return found

    @property
    def mirror(self) -> Bucket | None:
        """The bucket in which the storage lies, if it does."""
        return Bucket(self.bucket, self.storage) if self.bucket else None

    @property
    def folder(self) -> Path:
        """Where this grid's own files lie."""
        return self.storage / "runs" / self.name


def _built_in(name: str, corpora: list[str]) -> list[Any]:
    """The baselines of the design, over the grid's two corpora A and B in the order given."""
    if name not in ("sequential_ab", "sequential_ba", "combined"):
        raise ValueError(
            f"found {name!r}; allowed: sequential_ab, sequential_ba, combined, or {{{name}: [CORPUS or MIXTURE, ...]}}"
        )
    if len(corpora) != 2:
        raise ValueError(f"{name!r} is defined for two corpora, found {len(corpora)}; allowed: {{NAME: [CORPUS, ...]}}")
    a, b = corpora
    sequences: dict[str, list[Any]] = {"sequential_ab": [a, b], "sequential_ba": [b, a], "combined": [{a: 1, b: 1}]}
    return sequences[name]


def load_grid(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Grid:
    """Read, override and validate a grid; raises UserError that lists every problem."""
    read = read_yaml(path)
    raw = override(read._replace(data={"name": Path(path).stem} | by_name(read.data)), list(overrides))
    raw = raw._replace(data=_with_bucket(raw.data))
    grid = validate(Grid, raw)
    return grid.model_copy(update={"storage": _absolute(grid.storage, raw)})


def _with_bucket(data: dict[str, Any]) -> dict[str, Any]:
    """`storage: s3://...` means that bucket, and a copy in the cache of each machine."""
    uri = data.get("storage")
    if not isinstance(uri, str) or "://" not in uri:
        return data
    cache = Path(os.environ.get("LETHE_CACHE", "~/.cache/lethe")).expanduser().resolve()
    return data | {"bucket": uri, "storage": str(cache / fingerprint(uri))}


def _absolute(storage: Path, raw: RawConfig) -> Path:
    if not storage.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"{raw.name}: storage: found {str(storage)!r}; allowed: an absolute path, since a job runs in a copy of "
            "the working folder that vanishes with it (add storage=/ABSOLUTE/PATH)"
        )
    return storage.resolve()
