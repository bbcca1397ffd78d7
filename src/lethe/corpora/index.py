"""The URL index of a source: where every page lies, on which site, and how long it is. No text is read.

data/index/FP/UNIT/       the rows of a unit (schema INDEX) as part-*.parquet, and its manifest
data/index/FP/manifest.json   written last: counts over all units, and the files of the index
data/index/index.json     names the newest of these folders
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lethe.corpora.bounds import largest_page
from lethe.corpora.footer import BadFileError
from lethe.corpora.hosts import LIST_VERSION, sites
from lethe.corpora.parquet import PartWriter, read_manifest
from lethe.corpora.select import undecodable
from lethe.corpora.source import BATCH_BYTES, OnBadFile, Source, Unit, decoded
from lethe.files import fingerprint, write_json

VERSION = 1  # of what the index holds; counted up whenever it would hold something else
INDEX = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("registrable_domain", pa.string()),
        ("file", pa.string()),  # its name below the source's root
        ("row_group", pa.int32()),
        ("row", pa.int32()),  # within its row group, from 0
        ("token_count", pa.int64()),
        ("dump", pa.string()),
    ]
)
READ = ("id", "url", "token_count", "dump")
BATCH_ROWS = 1024  # decoded at once
CHUNK_BYTES = 16_000_000


@dataclass(frozen=True)
class Index:
    """The index of a source, and where it lies, or will."""

    source: Source
    storage: Path

    @cached_property
    def fingerprint(self) -> str:
        """8 hexadecimal characters: the source's files and the public suffix list decide what the index holds."""
        return fingerprint([VERSION, LIST_VERSION, self.source.fingerprint], 8)

    @property
    def root(self) -> Path:
        return self.storage / "data" / "index"

    @property
    def folder(self) -> Path:
        return self.root / self.fingerprint

    @property
    def manifest(self) -> dict[str, Any] | None:
        """Of the whole; None while it is not finished."""
        return read_manifest(self.folder)

    def missing_units(self) -> list[Unit]:
        return [unit for unit in self.source.units if read_manifest(self.folder / unit.id) is None]

    def files(self) -> list[Path]:
        """The Parquet files of a finished index, in the source's order."""
        manifest = self.manifest
        assert manifest is not None, f"{self.folder} is not finished"
        order = {unit.id: number for number, unit in enumerate(self.source.units)}
        return [
            self.folder / name
            for name in sorted(manifest["files"], key=lambda name: (order[name.partition("/")[0]], name))
        ]

    def finish(self) -> None:
        """Write the manifest of an index whose units are all there."""
        counts: Counter[str] = Counter()
        files: dict[str, Any] = {}
        skipped = dict(self.source.skipped)
        for unit in self.source.units:
            made = read_manifest(self.folder / unit.id)
            assert made is not None, f"unit {unit.id} is missing"
            counts.update(made["counts"])
            files |= {f"{unit.id}/{file}": facts for file, facts in made["files"].items()}
            if made["problem"]:
                skipped[f"{unit.name}, {unit.row_groups}"] = made["problem"]
        about = {"version": VERSION, "public_suffix_list": LIST_VERSION, "source": self.source.fingerprint}
        write_json(self.folder / "manifest.json", {**about, "counts": counts, "skipped": skipped, "files": files})

    def name_newest(self) -> None:
        """Let index.json name this index's folder."""
        path = self.root / "index.json"
        if not path.is_file() or self.fingerprint not in path.read_text():
            write_json(path, {"folder": self.fingerprint})


def index_unit(unit: Unit, folder: Path, on_bad_file: OnBadFile = "refuse") -> None:
    """Write the rows of a unit (schema INDEX) and its manifest to FOLDER/UNIT; a finished unit is left as it is.

    Raises BadFileError where its file cannot be decoded, or holds fewer or more rows than its footer tells, unless such
    a unit is to be skipped: it then has a manifest that says so, and no rows. Raises UserError where the source changed
    or does not answer.
    """
    target = folder / unit.id
    if read_manifest(target) is not None:
        return
    try:
        manifest = _write(unit, target)
    except BadFileError as error:
        if on_bad_file == "refuse":
            raise
        shutil.rmtree(target)
        manifest = {"problem": str(error), "counts": {"unreadable": unit.rows}, "files": {}}
    write_json(target / "manifest.json", {"name": unit.name, "first": unit.first, "last": unit.last, **manifest})


def _write(unit: Unit, target: Path) -> dict[str, Any]:
    """Write the rows; what the manifest says of them."""
    writer = PartWriter(target, INDEX)
    counts: Counter[str] = Counter()
    for pages in decoded(unit, partial(_read, unit), READ):
        table, counted = index_rows(pages, unit.name)
        writer.write(table)
        counts.update(counted)
    if counts["rows"] != unit.rows:
        raise BadFileError(f"{unit.url}: {unit.row_groups}: found {counts['rows']} rows; allowed: {unit.rows}")
    return {"problem": "", "counts": counts, "files": writer.close(target)}


def _read(unit: Unit, file: BinaryIO, metadata: pq.FileMetaData) -> Iterator[pa.Table]:
    """The columns READ of a unit, as far as the file has them, with each row's `row_group` and `row` in it.

    Many rows at a time, for with few the start of the kernels would cost more than their work.
    """
    groups = range(unit.first, unit.last + 1)
    ends, start = np.cumsum([metadata.row_group(group).num_rows for group in groups]), 0
    for pages in _chunks(file, metadata, groups):
        number = np.arange(start, start := start + pages.num_rows)
        group = np.searchsorted(ends, number, side="right")
        row = number - np.append(0, ends)[group]
        pages = pages.append_column("row_group", pa.array(unit.first + group, pa.int32()))
        yield pages.append_column("row", pa.array(row, pa.int32()))


def _chunks(file: BinaryIO, metadata: pq.FileMetaData, groups: range) -> Iterator[pa.Table]:
    """The columns READ of row groups, some megabytes at a time."""
    columns = [name for name in READ if name in metadata.schema.to_arrow_schema().names]
    rows = min(BATCH_ROWS, max(1, BATCH_BYTES // max(1, largest_page(file, metadata, groups, columns))))
    parquet = pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True)  # of files that have them
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in parquet.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False):
        waiting.append(batch)
        size += batch.nbytes
        if size >= CHUNK_BYTES:
            table = pa.Table.from_batches(waiting)
            step = -(-table.num_rows // (size // CHUNK_BYTES))  # all of them but where a few rows are large
            yield from (table.slice(start, step) for start in range(0, table.num_rows, step))
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def index_rows(pages: pa.Table, name: str) -> tuple[pa.Table, Counter[str]]:
    """Rows (columns READ in any of their types, row_group, row) of the file `name` as INDEX, and what was counted.

    A text that is not valid UTF-8 becomes null. Counts: rows; tokens; no_url, no_host (of those with an address),
    no_registrable_domain (of those with a host), no_token_count; bad_utf8 (rows with such a text).
    """
    columns = {column: _column(pages, column) for column in (*READ, "row_group", "row")}
    bad = np.zeros(pages.num_rows, bool)
    for column in READ:
        if columns[column].type == pa.string() and (broken := undecodable(columns[column])).any():
            columns[column] = pc.if_else(pa.array(broken), pa.scalar(None, pa.string()), columns[column])
            bad |= broken
    columns["host"], columns["registrable_domain"] = sites(columns["url"])
    columns["file"] = pa.repeat(pa.scalar(name), pages.num_rows)
    nulls = {column: array.null_count for column, array in columns.items()}
    counts = {
        "rows": pages.num_rows,
        "tokens": pc.sum(columns["token_count"]).as_py() or 0,
        "no_url": nulls["url"],
        "no_host": nulls["host"] - nulls["url"],
        "no_registrable_domain": nulls["registrable_domain"] - nulls["host"],
        "no_token_count": nulls["token_count"],
        "bad_utf8": int(bad.sum()),
    }
    return pa.table([columns[field.name] for field in INDEX], INDEX), Counter(counts)


def _column(pages: pa.Table, name: str) -> pa.Array:
    field = INDEX.field(name)
    if name not in pages.schema.names:
        return pa.nulls(pages.num_rows, field.type)
    column = pages[name]
    column = column if column.type == field.type else column.cast(field.type)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], field.type)
