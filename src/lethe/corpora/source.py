"""Where pages come from: Parquet files of FineWeb's row form, on this machine, in a bucket or on a hub."""

import glob
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from lethe.config import UserError
from lethe.corpora.schema import FINEWEB

NEEDED = ("text", "url", "id", "language", "language_score", "token_count")
ALLOWED = (
    "sample, or a folder of *.parquet files, one such file, or a glob (FOLDER/**/*.parquet), "
    "relative to storage or as file://, s3://, gs://, hf://datasets/ORG/NAME/..."
)
UNIT_BYTES = 128_000_000  # of a unit's row groups, decoded, as the footer tells
BATCH_ROWS = 256  # small, for a footer can lie: a few hundred bytes may decode to gigabytes
FOOTER_GUESS = 1 << 16


class Unit(NamedTuple):
    """What one task reads: row groups first..last of a file; `id` names it whatever machine the file lies on."""

    id: str
    name: str
    url: str
    first: int
    last: int
    rows: int


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file: its name below the source's root, size, sha256 of its footer, (rows, bytes) of its row groups."""

    name: str
    url: str
    size: int
    footer: str
    row_groups: tuple[tuple[int, int], ...]

    def units(self) -> Iterator[Unit]:
        """Neighbouring row groups together, as long as they stay small."""
        first = rows = size = 0
        for i, (group_rows, group_bytes) in enumerate(self.row_groups):
            if rows and size + group_bytes > UNIT_BYTES:
                yield self._unit(first, i - 1, rows)
                first, rows, size = i, 0, 0
            rows, size = rows + group_rows, size + group_bytes
        if rows:
            yield self._unit(first, len(self.row_groups) - 1, rows)

    def _unit(self, first: int, last: int, rows: int) -> Unit:
        identity = hashlib.sha256(f"{self.name}\0{first}\0{last}".encode()).hexdigest()[:16]
        return Unit(identity, self.name, self.url, first, last, rows)


@dataclass(frozen=True)
class Source:
    """The files that `given` names, by name."""

    given: str
    files: tuple[SourceFile, ...]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the files' names, sizes and footers: what they are, not where or when they were put there."""
        lines = [f"{file.name}\0{file.size}\0{file.footer}\n" for file in self.files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def units(self) -> list[Unit]:
        """The work, in the order that decides which of two equal pages stays."""
        return [unit for file in self.files for unit in file.units()]

    @property
    def rows(self) -> int:
        return sum(rows for file in self.files for rows, _ in file.row_groups)


def open_source(source: str, storage: Path) -> Source:
    """List a source's files and read their footers; `sample` is written to `storage` when it is not there.

    A relative path starts at `storage`; a folder stands for the files right in it. Raises UserError where there is no
    *.parquet file, or one of them is no Parquet, lacks a needed column or has it in another type.
    """
    if source == "sample":
        from lethe.corpora.sample import write_sample

        write_sample(storage / "data" / "sample")  # does nothing where the whole of it lies already
    try:
        fs, paths = _list(_location(source, storage))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"source: found {source!r}, which cannot be read: {error}; allowed: {ALLOWED}") from None
    if not paths:
        raise UserError(f"source: found {source!r}, where there is no *.parquet file; allowed: {ALLOWED}")
    root = _root(paths)
    return Source(source, tuple(_look(fs, path, os.path.relpath(path, root)) for path in paths))


def _location(source: str, storage: Path) -> str:
    if source == "sample":
        return str(storage / "data" / "sample")
    if "://" in source:
        return source
    if glob.has_magic(source) and not (storage / source).exists():
        return os.path.join(glob.escape(str(storage)), source)  # noqa: PTH118 - a pattern is no path
    return str(storage / source)


def _list(location: str) -> tuple[Any, list[str]]:
    """The file system and the sorted paths of the *.parquet files that a location names."""
    fs, path = fsspec.core.url_to_fs(location)
    if fs.isdir(path):
        entries = fs.ls(path, detail=True)
    elif glob.has_magic(path) and not fs.exists(path):
        entries = fs.glob(path, detail=True).values()
    else:
        entries = [fs.info(path)]
    files = sorted({entry["name"] for entry in entries if entry["type"] == "file"})
    files = [file for file in files if file.endswith(".parquet")]
    return fs, [file for file in files if not _is_hidden(os.path.relpath(file, _root(files)))]


def _root(paths: list[str]) -> str:
    """The innermost folder that holds all of them."""
    return os.path.commonpath([str(PurePosixPath(path).parent) for path in paths])


def _is_hidden(name: str) -> bool:
    """Whether it is beside the data and no part of it, as `_SUCCESS` or what a program has not finished writing."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _look(fs: Any, path: str, name: str) -> SourceFile:
    url = fs.unstrip_protocol(path)
    try:
        size = fs.size(path)
        with fs.open(path, "rb") as file:
            footer = _footer(file, size)
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
        schema = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{url}: cannot be read as Parquet: {error}") from None
    _check_columns(url, schema)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    digest = hashlib.sha256(footer).hexdigest()
    return SourceFile(name, url, size, digest, tuple((group.num_rows, group.total_byte_size) for group in groups))


def _footer(file: Any, size: int) -> bytes:
    """The last bytes of a Parquet file: metadata, its length in 4 bytes, and the mark PAR1."""
    file.seek(max(0, size - FOOTER_GUESS))
    tail = file.read()
    length = 8 + int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] != b"PAR1" or length > size:
        raise pa.ArrowInvalid("found no Parquet footer at its end; allowed: whole, unencrypted Parquet files")
    if length > len(tail):
        file.seek(size - length)
        tail = file.read()
    return tail[-length:]


def _check_columns(url: str, schema: pa.Schema) -> None:
    missing = [name for name in NEEDED if name not in schema.names]
    if missing:
        raise UserError(
            f"{url}: column {missing[0]}: missing (found: {', '.join(schema.names)}); allowed: files that have "
            f"{', '.join(NEEDED)}"
        )
    for field in FINEWEB:
        if field.name in schema.names and not _is_like(schema.field(field.name).type, field.type):
            found = schema.field(field.name).type
            raise UserError(f"{url}: column {field.name}: found type {found}; allowed: {field.type}")


def _is_like(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column may stand for the wanted one: string, integer and number in any width."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if wanted == pa.string():
        return pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_null(found)
    if wanted == pa.int64():
        return pa.types.is_integer(found)
    return pa.types.is_floating(found)


def read_pages(unit: Unit) -> Iterator[pa.Table]:
    """The rows of a unit, a few hundred at a time, as tables of schema FINEWEB; what the file lacks is null.

    Raises UserError where the file cannot be decoded.
    """
    try:
        with fsspec.open(unit.url, "rb") as file:
            parquet = pq.ParquetFile(file)
            columns = [name for name in FINEWEB.names if name in parquet.schema_arrow.names]
            groups = range(unit.first, unit.last + 1)
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False):
                yield pa.table([_column(batch, field) for field in FINEWEB], FINEWEB)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{unit.url}: row groups {unit.first} to {unit.last} cannot be decoded: {error}") from None


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(field.name)
    return column if column.type == field.type else column.cast(field.type)
