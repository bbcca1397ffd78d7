"""Writes the sample to disk."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lethe.config import UserError
from lethe.corpora.sample.dataset import plain_dataset
from lethe.corpora.sample.facts import facts
from lethe.corpora.sample.planting import plant
from lethe.corpora.schema import FINEWEB
from lethe.files import sha256, whole, write_json

FORMAT = 1  # raise it whenever the rows change
MANIFEST = "facts.json"
FILES = 4
ROWS_PER_GROUP = 500


def write_sample(folder: Path) -> None:
    """Write the sample into `folder`: `sample-0000N.parquet` (lethe.corpora.schema.FINEWEB) and `facts.json`.

    `facts.json` is written last and is the manifest too: format, sha256 of each Parquet file; the facts
    that the pages state, with statements, paraphrases and distractors for probes; the ids of the pages of each label
    (food, automotive, other, mixed, not_english, empty: every row has one); and the ids of what was planted
    (pairs of original and copy for duplicates). The bytes are always the same. Nothing is done where the folder holds
    the whole sample already. Raises UserError where the folder cannot be written.
    """
    try:
        if not _is_complete(folder):
            (folder / MANIFEST).unlink(missing_ok=True)
            _write(folder)
    except OSError as error:
        raise UserError(f"{folder}: the sample cannot be written here: {error.strerror}") from None


def _write(folder: Path) -> None:
    dataset = plain_dataset()
    plant(dataset)
    rows = dataset.rng("order").sample(list(dataset.rows.values()), len(dataset.rows))
    files = {}
    for number in range(FILES):
        path = folder / f"sample-{number:05}.parquet"
        table = pa.Table.from_pylist(rows[number::FILES], schema=FINEWEB)
        with whole(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=ROWS_PER_GROUP)
        files[path.name] = sha256(path)
    manifest = {"format": FORMAT, "files": files, "facts": [fact._asdict() for fact in facts()]}
    write_json(folder / MANIFEST, {**manifest, "planted": dataset.planted, "pages": dataset.pages})


def _is_complete(folder: Path) -> bool:
    """Whether the folder's manifest is of this format, and every file is as it says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return manifest["format"] == FORMAT and all(
            sha256(folder / name) == digest for name, digest in manifest["files"].items()
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False
