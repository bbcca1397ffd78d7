"""Writes the sample to disk."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lethe.config import UserError

from ..schema import FINEWEB
from .dataset import Dataset, plain_dataset
from .facts import facts
from .planting import plant

FORMAT = 1  # raise it whenever the same seed gives other rows
MANIFEST = "facts.json"
FILES = 4
ROWS_PER_GROUP = 500


def write_sample(folder: Path, seed: int = 0) -> None:
    """Write the sample into `folder` as `sample-0000N.parquet` (lethe.corpora.schema.FINEWEB) and `facts.json`.

    `facts.json` is written last and is the sample's manifest: format, seed, sha256 of each Parquet file; the facts
    that the pages state, with statements, paraphrases and distractors for probes; the ids of the pages of each label
    (food, automotive, other, mixed, not_english, empty: every row has one); and the ids of what was planted
    (pairs of original and copy for duplicates). Equal seeds give equal bytes. Nothing is done where the folder
    holds the whole sample of this seed already. Raises UserError where the folder cannot be written.
    """
    try:
        if not _is_complete(folder, seed):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).unlink(missing_ok=True)
            _write(folder, seed)
    except OSError as error:
        raise UserError(f"{folder}: the sample cannot be written here: {error.strerror}") from error


def _write(folder: Path, seed: int) -> None:
    dataset = plain_dataset(seed)
    plant(dataset)
    rows = dataset.rng("order").sample(list(dataset.rows.values()), len(dataset.rows))
    sha256 = {}
    for number in range(FILES):
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(rows[number::FILES], schema=FINEWEB)
        pq.write_table(table, sink, compression="zstd", row_group_size=ROWS_PER_GROUP)
        name, content = f"sample-{number:05}.parquet", sink.getvalue().to_pybytes()
        _write_whole(folder / name, content)
        sha256[name] = hashlib.sha256(content).hexdigest()
    manifest = json.dumps(_manifest(dataset, sha256), indent=1)
    _write_whole(folder / MANIFEST, manifest.encode())


def _manifest(dataset: Dataset, sha256: dict[str, str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "seed": dataset.seed,
        "files": sha256,
        "facts": [fact._asdict() for fact in facts()],
        "planted": dataset.planted,
        "pages": dataset.pages,
    }


def _is_complete(folder: Path, seed: int) -> bool:
    """Whether the folder's manifest is of this format and seed, and every file is as it says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return (manifest["format"], manifest["seed"]) == (FORMAT, seed) and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
            for name, sha256 in manifest["files"].items()
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)
