"""From a data set to units of candidates: the same form as the pages of the domains, so that one merge takes both.

data/corpora/units-FP/NUMBER/   a part of the data set: its candidates and its manifest; FP is Opened.fingerprint
"""

import math
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lethe.corpora.dataset import Opened
from lethe.corpora.parquet import PartWriter, read_manifest
from lethe.corpora.score import SCORES
from lethe.corpora.select import CANDIDATES, text_hash, undecodable
from lethe.files import write_json

BATCH_ROWS = 1000
BYTES_A_TOKEN = 4
SCORED = {*SCORES.names, "rival_score"}


class Documents:
    """The units of one data set in the folder `root` of all corpora."""

    def __init__(self, opened: Opened, root: Path) -> None:
        self.opened, self.folder = opened, root / f"units-{opened.fingerprint}"

    @cached_property
    def units(self) -> list[str]:
        """Names of the units, in order; raises UserError where the data set cannot be loaded."""
        return [f"{number:05}" for number in range(self.opened.parts)]

    @property
    def missing(self) -> list[str]:
        return [unit for unit in self.units if read_manifest(self.folder / unit) is None]

    def write(self, unit: str) -> dict[str, Any]:
        """Write a unit's candidates and manifest, and return the manifest; a finished unit is left as it is.

        Peak memory is what the library decodes at once (a row group of Parquet, some megabytes of JSON, CSV or text)
        and 32 MB. Raises UserError for a data set that cannot be read to its end.
        """
        folder = self.folder / unit
        if (finished := read_manifest(folder)) is not None:
            return finished
        rejects: Counter[str] = Counter()
        writer, rows, size = PartWriter(folder, CANDIDATES), 0, 0
        for texts in _texts(self.opened, int(unit)):
            kept, rejected = self._candidates(texts, unit, rows)
            writer.write(kept)
            rejects.update(rejected)
            rows, size = rows + len(texts), size + texts.nbytes
        files = writer.close(folder)
        kept_rows = rows - rejects.total()
        manifest: dict[str, Any] = {
            "id": unit,
            "problem": "",
            "rejects": {self.opened.name: dict(rejects)},
            "files": files,
        }
        manifest |= {"rows": rows, "bytes": size, "kept": kept_rows}
        write_json(folder / "manifest.json", manifest)
        return manifest

    def _candidates(self, texts: pa.ChunkedArray, unit: str, first: int) -> tuple[pa.Table, Counter[str]]:
        """Documents (string, null, or not even UTF-8) as CANDIDATES, the number of the first being `first`.

        Their `id` is CORPUS/SPLIT/UNIT/ROW. Nobody counted their tokens: `token_count` is a quarter of the UTF-8
        bytes, rounded up. They have neither address nor host, and score 0, so that of equal texts a page of a domain
        stays.
        """
        reasons = np.full(len(texts), "", object)
        reasons[pc.equal(pc.fill_null(pc.binary_length(texts), 0), 0).to_numpy()] = "no_text"
        reasons[undecodable(texts)] = "bad_utf8"
        rows = np.flatnonzero(reasons == "")
        texts = texts.take(pa.array(rows))
        name, split = self.opened.name, self.opened.corpus.dataset.split
        columns: dict[str, Any] = {
            "text": texts,
            "id": [f"{name}/{split}/{unit}/{first + row}" for row in rows],
            "token_count": [math.ceil(size / BYTES_A_TOKEN) for size in pc.binary_length(texts).to_pylist()],
            "corpus": [name] * len(rows),
            "text_hash": [text_hash(text) for text in texts.to_pylist()],
        }
        arrays = [_column(columns.get(field.name), field, len(rows)) for field in CANDIDATES]
        return pa.table(arrays, CANDIDATES), Counter(reason for reason in reasons.tolist() if reason)


def _column(values: Any, field: pa.Field, rows: int) -> pa.Array | pa.ChunkedArray:
    """Given values; or 0 for a score, null for all that only a page of the web has."""
    if isinstance(values, pa.ChunkedArray):
        return values
    score = field.name in SCORED
    return pa.array(values if values is not None else [0 if score else None] * rows, field.type)


def _texts(opened: Opened, number: int) -> Iterator[pa.ChunkedArray]:
    """The column of documents of a part, as strings, some hundred rows at a time."""
    rows = iter(opened.open_part(number).iter(BATCH_ROWS))
    while (table := opened.attempt(lambda: next(rows, None))) is not None:
        opened.check_column(table.schema.names)
        column = table[opened.corpus.dataset.text]
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or column.type == pa.null()):
            raise opened.problem(
                "text", f"found {opened.corpus.dataset.text!r} of type {column.type}", "a string column"
            )
        yield column.cast(pa.string())
