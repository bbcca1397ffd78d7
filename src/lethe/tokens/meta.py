"""What `meta.json` of a corpus's token shards says, and whether the files are so."""

import json
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field, NonNegativeInt

from lethe.config import Config, RawConfig, UserError, validate
from lethe.corpora.split import SPLITS
from lethe.files import sha256

Version = Literal[1]  # raise it whenever the same ids give other shards
(SHARDS_VERSION,) = get_args(Version)
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Shard(Config):
    """One file of ids; `documents` is the number of `<eos>` in it."""

    name: Annotated[str, Field(pattern=r"^(train|val)-[0-9]{5}\.bin$")]
    tokens: NonNegativeInt
    documents: NonNegativeInt
    sha256: Sha256


class Counts(Config):
    """What a part or a split holds: documents that are not empty, ids with each `<eos>`, UTF-8 bytes of text."""

    documents: NonNegativeInt
    tokens: NonNegativeInt
    bytes: NonNegativeInt


class Split(Counts):
    """A split: its counts and its files, in order."""

    shards: list[Shard]


class Meta(Config):
    """`meta.json` of one corpus."""

    version: Version
    dtype: Literal["uint16", "uint32"]
    tokenizer: Annotated[str, Field(pattern="^bpe[0-9]+-[0-9a-f]{8}$")]
    tokenizer_sha256: Sha256
    corpus: str
    corpus_fingerprint: str
    splits: dict[Literal["train", "val"], Split]

    @property
    def ids(self) -> np.dtype:
        """The type of the ids on disk."""
        return np.dtype(self.dtype).newbyteorder("<")


def check_sums(split: Split, where: str) -> None:
    """Raises UserError, with `where` it stands, if the shards do not add up to the split."""
    for field in ("tokens", "documents"):
        found, allowed = sum(getattr(shard, field) for shard in split.shards), getattr(split, field)
        if found != allowed:
            raise UserError(
                f"{where}: {field}: found {found:,} in the shards; allowed: {allowed:,}, as in their counts"
            )


def read_meta(folder: Path) -> Meta:
    """The `meta.json` of a corpus's shards; raises UserError if it is not there, or disagrees with the files."""
    path = folder / "meta.json"
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not finished token shards: {error}; tokenize the corpora again") from None
    meta = validate(Meta, RawConfig(str(path), data, {}))
    for name in SPLITS:
        if name not in meta.splits:
            raise UserError(f"{path}: splits.{name}: missing; it must be given")
        check_sums(meta.splits[name], f"{path}: splits.{name}")
        for shard in meta.splits[name].shards:
            check_size(folder / shard.name, shard, meta.ids)
    return meta


def check_size(file: Path, shard: Shard, dtype: np.dtype) -> None:
    """Raises UserError if the file is not as long as the shard."""
    found, allowed = file.stat().st_size if file.is_file() else None, shard.tokens * dtype.itemsize
    if found != allowed:
        raise UserError(f"{file}: found {found} bytes; allowed: {allowed}, as in meta.json; tokenize again")


def check_shards(root: Path) -> None:
    """Raises UserError where a shard below `root` was written to after its `meta.json`, and holds something else now.

    Others are not read: where there are many tokens, that would take minutes whenever a program starts. (After a copy
    that did not keep the times of files, all may be read.)
    """
    for path in sorted(root.glob("*/meta.json")):
        check_bytes(path.parent, read_meta(path.parent))


def check_bytes(folder: Path, meta: Meta) -> None:
    """`check_shards` for one corpus."""
    for split in meta.splits.values():
        for shard in split.shards:
            check_content(folder / shard.name, shard)


def check_content(file: Path, shard: Shard) -> None:
    """`check_shards` for one shard."""
    meta = file.with_name("meta.json")
    is_newer = not meta.is_file() or file.stat().st_mtime_ns > meta.stat().st_mtime_ns
    if is_newer and (found := sha256(file)) != shard.sha256:
        raise UserError(
            f"{file}: sha256: found {found[:12]}...; allowed: {shard.sha256[:12]}..., as in meta.json; the file "
            "was altered; tokenize again"
        )
