"""A corpus that the `datasets` library can load, in one YAML: from the hub, from files, or from a folder it saved.

No code of a data set is ever run: the library has no loading scripts any more, and only forms of data are read that
hold nothing but data (FORMS). Relative paths start at `storage`.
"""

import glob
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from lethe.config import Config, UserError
from lethe.corpora.domains import AnyCorpus
from lethe.corpora.remote import attempt
from lethe.files import fingerprint, sha256

T = TypeVar("T")

FORMS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text", ".parquet": "parquet", ".arrow": "arrow"}
HUB_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
COMMIT = r"[0-9a-f]{40}"
ALLOWED = (
    "ORG/NAME of a data set on the hub, or, relative to storage, a file or glob of "
    f"{', '.join(sorted(FORMS))}, a folder of such files, or one written by save_to_disk"
)
SAVED_ROWS = 200_000  # of a data set saved to disk, in one unit
VERSION = 1  # of how documents become candidates; counted up whenever they would be others


class DatasetConfig(Config):
    """What to load, in the words of `datasets.load_dataset`."""

    path: str = Field(min_length=1, description=ALLOWED)
    name: str | None = Field(None, description="a configuration of a data set that has several")
    revision: str | None = Field(None, description="of a data set on the hub: a commit, tag or branch; null: main")
    split: str = Field("train", pattern=r"^\w[\w.-]*$")
    text: str = Field("text", min_length=1, description="the column that holds the documents")
    sample_by: Literal["line", "paragraph", "document"] = Field("line", description="what of a text file is one")

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        return _check_fields(cls, value)


class DatasetCorpus(AnyCorpus):
    """All documents of a data set: it has no words and no thresholds, for nothing is chosen among them."""

    dataset: DatasetConfig

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        return _check_fields(cls, value)

    @property
    def max_host_share(self) -> None:
        """Its documents have no hosts."""
        return None


def _check_fields(model: type[Config], value: Any) -> Any:
    """Says here which fields there are, for the general message knows those of a domain only."""
    for field in value if isinstance(value, dict) else ():
        if field not in model.model_fields:
            raise ValueError(f"found unknown field {field!r}; allowed: {', '.join(model.model_fields)}")
    return value


@dataclass(frozen=True)
class Opened:
    """A corpus's data set, found: where it is, and `identity`, which tells its content from any other.

    On the hub that is the commit, of local files their names, sizes and sha256: each is read once for it.
    """

    name: str
    corpus: DatasetCorpus
    kind: Literal["hub", "files", "folder", "saved"]
    location: str
    files: tuple[str, ...]
    identity: Any

    @cached_property
    def fingerprint(self) -> str:
        """Of what its units hold; budget and split are not of it, nor where the data lie."""
        chosen = self.corpus.dataset.model_dump(mode="json", include={"name", "split", "text", "sample_by"})
        return fingerprint([VERSION, self.name, chosen, self.identity], 8)

    @property
    def parts(self) -> int:
        """In how many units it is read. Raises UserError as `open_part`, or for another split or column."""
        data = self._load()
        if self.kind == "saved":
            return max(1, -(-data.num_rows // SAVED_ROWS))
        return int(data.num_shards)

    def open_part(self, number: int) -> Any:
        """The rows of one of `parts`, streamed or memory-mapped; raises UserError where it cannot be loaded."""
        return self.attempt(lambda: self._load().shard(self.parts, number, contiguous=True).with_format("arrow"))

    def attempt(self, request: Callable[[], T]) -> T:
        """What the library answers; whatever it raises (it has no type of its own for that) becomes a UserError."""
        try:
            return request()
        except UserError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())[:300] or type(error).__name__
            if isinstance(error, StopIteration):  # what the library makes of a first file without a row
                words = "it is empty"
            found = f"found {self.corpus.dataset.path!r}, which cannot be read: {words}"
            raise self.problem("path", found, ALLOWED) from error

    def problem(self, field: str, found: str, allowed: str) -> UserError:
        return UserError(f"corpus {self.name}: dataset.{field}: {found}; allowed: {allowed}")

    def _load(self) -> Any:
        data = self.attempt(self._saved if self.kind == "saved" else self._stream)
        if data.column_names is not None:
            self.check_column(data.column_names)
        return data

    def check_column(self, names: list[str]) -> None:
        """Raises UserError where there is no column of the name that holds the documents."""
        if self.corpus.dataset.text not in names:
            raise self.problem("text", f"found {self.corpus.dataset.text!r}", f"a column: {', '.join(names)}")

    def _options(self, form: str) -> dict[str, Any]:
        """What a reader of files is told; by itself that of CSV makes numbers of some texts, and null of NA."""
        asked = self.corpus.dataset
        options: dict[str, dict[str, Any]] = {
            "text": {"sample_by": asked.sample_by},
            "csv": {"converters": {asked.text: str}, "keep_default_na": False},
        }
        return options.get(form, {})

    def _saved(self) -> Any:
        from datasets import DatasetDict, load_from_disk

        data, split = load_from_disk(self.location), self.corpus.dataset.split
        splits = data if isinstance(data, DatasetDict) else {str(data.split or "train"): data}
        if split not in splits:
            raise self.problem("split", f"found {split!r}", ", ".join(splits))
        return splits[split]

    def _stream(self) -> Any:
        from datasets import load_dataset_builder

        asked = self.corpus.dataset
        if self.kind == "files":
            form = FORMS[Path(self.files[0]).suffix]
            builder = load_dataset_builder(form, data_files={asked.split: list(self.files)}, **self._options(form))
        else:
            if self.kind == "hub" and Path(self.location).exists():  # the library would take that for what is meant
                raise self.problem("path", f"found {self.location!r} in the working folder, too", "one of that name")
            revision = self.identity["commit"] if self.kind == "hub" else None
            builder = load_dataset_builder(self.location, asked.name, revision=revision)
        form = type(builder).__module__.rpartition(".")[2]
        if form not in FORMS.values():
            raise self.problem("path", f"found {asked.path!r}, which holds {form}", ALLOWED)
        splits = builder.info.splits or builder.config.data_files
        if asked.split not in splits:
            raise self.problem("split", f"found {asked.split!r}", ", ".join(map(str, splits)))
        return builder.as_streaming_dataset(split=asked.split)


def open_dataset(name: str, corpus: DatasetCorpus, storage: Path) -> Opened:
    """Find a corpus's data set and what identifies it; reads local files once, and asks the hub for one commit.

    Raises UserError where there is none, or the hub does not answer.
    """
    asked, path = corpus.dataset, storage / corpus.dataset.path
    if path.is_dir():
        saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        return Opened(name, corpus, "saved" if saved else "folder", str(path), (), _identity(files, path))
    files = _files(asked.path, storage)
    if files:
        endings = sorted({file.suffix for file in files})
        if len(endings) > 1 or endings[0] not in FORMS:
            found = f"found files of {', '.join(ending or 'no ending' for ending in endings)}"
            raise UserError(f"corpus {name}: dataset.path: {found}; allowed: of one of {', '.join(FORMS)}")
        root = Path(os.path.commonpath([file.parent for file in files]))
        return Opened(name, corpus, "files", str(path), tuple(map(str, files)), _identity(files, root))
    if re.fullmatch(HUB_NAME, asked.path) and path.suffix not in FORMS:
        return Opened(name, corpus, "hub", asked.path, (), _on_hub(name, asked))
    raise UserError(f"corpus {name}: dataset.path: found {asked.path!r}, which is not there; allowed: {ALLOWED}")


def _files(path: str, storage: Path) -> list[Path]:
    """What a path or glob names, by name."""
    if (storage / path).is_file():
        return [storage / path]
    pattern = os.path.join(glob.escape(str(storage)), path)  # noqa: PTH118 - a pattern is no path
    found = (Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207 - it may be absolute
    return sorted(file for file in found if file.is_file())


def _identity(files: list[Path], root: Path) -> list[list[Any]]:
    return [[file.relative_to(root).as_posix(), file.stat().st_size, sha256(file)] for file in files]


def _on_hub(name: str, asked: DatasetConfig) -> dict[str, str]:
    """The data set and its commit, which stands for all of its files."""
    if re.fullmatch(COMMIT, asked.revision or ""):
        return {"hub": asked.path, "commit": str(asked.revision)}
    from huggingface_hub import HfApi

    try:
        found = attempt(
            f"hf://datasets/{asked.path}", lambda: HfApi().dataset_info(asked.path, revision=asked.revision)
        )
    except UserError as error:
        raise UserError(
            f"corpus {name}: dataset.path: found {asked.path!r}, which does not lie in storage and is not got from the "
            f"hub: {error}; allowed: {ALLOWED}"
        ) from None
    return {"hub": asked.path, "commit": str(found.sha)}
