"""Where pages come from: Parquet files of FineWeb's row form, on this machine, in a bucket or on a hub."""

import glob
import hashlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lethe.config import UserError
from lethe.corpora.bounds import bytes_of, largest_page
from lethe.corpora.footer import BadFileError, check_columns, metadata_of, read_footer
from lethe.corpora.remote import SLOTS, attempt, fetch, file_system, is_local, read_range
from lethe.corpora.schema import FINEWEB

OnBadFile = Literal["refuse", "skip"]

ALLOWED = (
    "sample, or a folder of *.parquet files, one such file, or a glob (FOLDER/**/*.parquet), "
    "relative to storage or as file://, http://, s3://, gs://, hf://datasets/ORG/NAME/..."
)
UNIT_BYTES = 128_000_000  # of a unit's row groups, decoded, as the footer tells
BATCH_ROWS = 256  # decoded at once
BATCH_BYTES = 1 << 28  # fewer are where so many rows of the largest page's size could be more than this
TABLE_ROWS, TABLE_BYTES = 4096, 1 << 24  # batches are handed on together until they are as much as one of these
BUFFER_BYTES = 1 << 20  # of a column that is being read; without it a whole column of a row group would be
GAP = 1 << 18  # bytes that are rather read in vain than passed over by another request


class Unit(NamedTuple):
    """What one task reads: row groups first..last of a file, as it was listed.

    `id` is a hash of what the file is and of the range, whatever machine it lies on.
    """

    id: str
    name: str
    url: str
    size: int
    footer: str
    etag: str
    first: int
    last: int
    rows: int

    @property
    def row_groups(self) -> str:
        """As messages name them."""
        return f"row groups {self.first} to {self.last}"


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file: its name below the source's root, size, sha256 of its footer, (rows, bytes) of its row groups.

    `etag` is what its server calls this version of it; "" where it has no such word.
    """

    name: str
    url: str
    size: int
    footer: str
    row_groups: tuple[tuple[int, int], ...]
    etag: str = ""

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
        content = f"{self.name}\0{self.size}\0{self.footer}\0{first}\0{last}"
        identity = hashlib.sha256(content.encode()).hexdigest()[:16]
        return Unit(identity, self.name, self.url, self.size, self.footer, self.etag, first, last, rows)


@dataclass(frozen=True)
class Source:
    """The files that `given` names, by name; `skipped` says of each that was passed over what is wrong with it."""

    given: str
    files: tuple[SourceFile, ...]
    on_bad_file: OnBadFile = "refuse"
    skipped: tuple[tuple[str, str], ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the files' names, sizes and footers: what they are, not where or when they were put there."""
        lines = [f"{file.name}\0{file.size}\0{file.footer}\n" for file in self.files]
        if self.on_bad_file == "skip":  # a damaged row group is then left out, so the pages may be others
            lines.append("skip\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def units(self) -> list[Unit]:
        """The work, in the order in which the pages of a corpus are written."""
        return [unit for file in self.files for unit in file.units()]

    @property
    def rows(self) -> int:
        return sum(rows for file in self.files for rows, _ in file.row_groups)


def open_source(source: str, storage: Path, on_bad_file: OnBadFile = "refuse") -> Source:
    """List a source's files and read their footers; `sample` is written to `storage` when it is not there.

    A relative path starts at `storage`; a folder stands for the files right in it. Raises UserError where there is no
    *.parquet file; where one is no whole Parquet file, has no rows, lacks a needed column or has it in another type,
    unless `on_bad_file` says to skip such a file and others are left; and where the source does not answer.
    """
    if source == "sample":
        from lethe.corpora.sample import write_sample

        write_sample(Path(_location(source, storage)))  # does nothing where the whole of it lies already
    try:
        fs, path = file_system(_location(source, storage))
        entries = _list(fs, path)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"source: found {source!r}, which cannot be read: {error}; allowed: {ALLOWED}") from None
    if not entries:
        raise UserError(f"source: found {source!r}, where there is no *.parquet file; allowed: {ALLOWED}")
    root = _root([entry["name"] for entry in entries])
    with ThreadPoolExecutor(1 if is_local(fs) else SLOTS) as pool:
        looked = list(pool.map(partial(_look, fs, root, on_bad_file), entries))
    files = [file for file in looked if isinstance(file, SourceFile)]
    skipped = [file for file in looked if not isinstance(file, SourceFile)]
    if not files:
        raise UserError(f"source: found {source!r}, no file of which can be read: {skipped[0][1]}")
    return Source(source, tuple(files), on_bad_file, tuple(skipped))


def _location(source: str, storage: Path) -> str:
    if source == "sample":
        return str(storage / "data" / "sample")
    if "://" in source:
        return source
    if glob.has_magic(source) and not (storage / source).exists():
        return os.path.join(glob.escape(str(storage)), source)  # noqa: PTH118 - a pattern is no path
    return str(storage / source)


def _list(fs: Any, path: str) -> list[dict[str, Any]]:
    """What fsspec knows of the *.parquet files that a path names, by path."""
    found = _asked(fs, path, lambda: _entries(fs, path))
    entries = sorted((entry for entry in found if entry["type"] != "directory"), key=lambda entry: entry["name"])
    entries = [entry for entry in entries if entry["name"].endswith(".parquet")]
    root = _root([entry["name"] for entry in entries]) if entries else ""
    return [entry for entry in entries if not _is_hidden(os.path.relpath(entry["name"], root))]


def _entries(fs: Any, path: str) -> list[dict[str, Any]]:
    if not is_local(fs):  # there `isdir` and `exists` say no to whatever goes wrong
        if glob.has_magic(path):
            return list(fs.glob(path, detail=True).values())
        return [fs.info(path)] if path.endswith(".parquet") else fs.ls(path, detail=True)
    if fs.isdir(path):
        return fs.ls(path, detail=True)
    if glob.has_magic(path) and not fs.exists(path):
        return list(fs.glob(path, detail=True).values())
    return [fs.info(path)]


def _asked(fs: Any, path: str, request: Callable[[], Any]) -> Any:
    """What a file system answers, a remote one with patience."""
    return request() if is_local(fs) else attempt(fs.unstrip_protocol(path), request)


def _root(paths: list[str]) -> str:
    """The innermost folder that holds all of them."""
    return os.path.commonpath([str(PurePosixPath(path).parent) for path in paths])


def _is_hidden(name: str) -> bool:
    """Whether it is beside the data and no part of it, as `_SUCCESS` or what a program has not finished writing."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _look(fs: Any, root: str, on_bad_file: OnBadFile, entry: dict[str, Any]) -> SourceFile | tuple[str, str]:
    """A file as it is, or the name of a bad one and what is wrong with it."""
    path = entry["name"]
    name, url = os.path.relpath(path, root), fs.unstrip_protocol(path)
    try:
        return _read_file(fs, path, name, url, entry)
    except BadFileError as error:
        if on_bad_file == "refuse":
            raise
        return name, str(error)


def _read_file(fs: Any, path: str, name: str, url: str, entry: dict[str, Any]) -> SourceFile:
    if entry["type"] != "file" and not (is_local(fs) and Path(path).is_file()):  # fsspec calls a link "other"
        raise BadFileError(f"{url}: found no regular file ({entry['type']}); allowed: files, or links to files")
    try:
        if entry.get("size") is None:
            entry = _asked(fs, path, lambda: fs.info(path))
        size = entry["size"] or 0
        footer = read_footer(_reader(fs, path, size), size)
        metadata = metadata_of(footer)
        schema = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise BadFileError(f"{url}: cannot be read as Parquet: {error}") from None
    check_columns(url, schema)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    counts = tuple((group.num_rows, group.total_byte_size) for group in groups)
    if not sum(rows for rows, _ in counts):
        raise BadFileError(f"{url}: found no rows; allowed: files with rows")
    return SourceFile(name, url, size, hashlib.sha256(footer).hexdigest(), counts, _etag(entry))


def _etag(entry: dict[str, Any]) -> str:
    """What a server calls this version of a file: S3 and HTTP, Google, Hugging Face."""
    return next((str(entry[key]) for key in ("ETag", "etag", "blob_id") if entry.get(key)), "")


def _reader(fs: Any, path: str, size: int) -> Callable[[int, int], bytes]:
    """Reads bytes start..end of a file."""
    if not is_local(fs):
        return partial(read_range, fs, path, size)

    def read(start: int, end: int) -> bytes:
        with Path(path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    return read


def read_pages(unit: Unit) -> Iterator[pa.Table]:
    """The rows of a unit, up to about four thousand at once, as tables of schema FINEWEB; what the file lacks is null.

    Raises BadFileError where the file cannot be decoded, or only into more memory than a worker has; UserError where
    the file is not the one that was listed, before the first rows or after the last.
    """
    yield from decoded(unit, partial(_decode, unit), FINEWEB.names)


def decoded(
    unit: Unit, decode: Callable[[BinaryIO, pq.FileMetaData], Iterator[pa.Table]], columns: Collection[str]
) -> Iterator[pa.Table]:
    """What `decode` makes of a unit's file, of which it may read these columns, and of its footer.

    Raises as `read_pages`.
    """
    with _unchanged(unit, columns) as (file, metadata):
        try:
            yield from decode(file, metadata)
        except (OSError, pa.ArrowException, MemoryError) as error:
            problem = BadFileError(f"{unit.url}: {unit.row_groups} cannot be decoded: {error}")
        else:
            return
    raise problem  # outside: bytes that changed under the reader are told as that


def _decode(unit: Unit, file: BinaryIO, metadata: pq.FileMetaData) -> Iterator[pa.Table]:
    groups = range(unit.first, unit.last + 1)
    columns = [name for name in FINEWEB.names if name in metadata.schema.to_arrow_schema().names]
    rows = min(BATCH_ROWS, max(1, BATCH_BYTES // max(1, largest_page(file, metadata, groups, columns))))
    parquet = pq.ParquetFile(file, metadata=metadata, buffer_size=BUFFER_BYTES, page_checksum_verification=True)
    waiting: list[pa.RecordBatch] = []
    waiting_rows = waiting_bytes = 0
    for batch in parquet.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False):
        waiting.append(batch)
        waiting_rows, waiting_bytes = waiting_rows + batch.num_rows, waiting_bytes + batch.nbytes
        if waiting_rows >= TABLE_ROWS or waiting_bytes >= TABLE_BYTES:
            yield _pages(waiting)
            waiting, waiting_rows, waiting_bytes = [], 0, 0
    if waiting:
        yield _pages(waiting)


def _pages(batches: list[pa.RecordBatch]) -> pa.Table:
    """As one table of schema FINEWEB, in one piece: kernels are slow on many."""
    table = pa.Table.from_batches(batches)
    return pa.table([_column(table, field) for field in FINEWEB], FINEWEB).combine_chunks()


@contextmanager
def _unchanged(unit: Unit, columns: Collection[str]) -> Iterator[tuple[BinaryIO, pq.FileMetaData]]:
    """A unit's file and its footer; the bytes of a remote unit are copied to a file here that has no name.

    Raises UserError where the file is not what was listed, or not the same at the end as at the beginning.
    """
    fs, path = file_system(unit.url)
    before, metadata = _version(fs, path, unit), _same_footer(fs, path, unit)

    def check() -> None:
        if _version(fs, path, unit) != before:
            raise _changed(unit, "it was written to while it was read")

    if is_local(fs):
        with Path(path).open("rb") as file:
            yield file, metadata
        check()
    else:
        with tempfile.TemporaryFile() as copy:
            for start, end in _spans(metadata, unit, columns):
                fetch(fs, path, unit.size, start, end, into=copy)
            check()
            yield copy, metadata


def _same_footer(fs: Any, path: str, unit: Unit) -> pq.FileMetaData:
    try:
        footer = read_footer(_reader(fs, path, unit.size), unit.size)
    except (OSError, pa.ArrowException) as error:
        raise _changed(unit, str(error)) from None
    if hashlib.sha256(footer).hexdigest() != unit.footer:
        raise _changed(unit, "another footer")
    return _decoded(footer)


@lru_cache(maxsize=4)
def _decoded(footer: bytes) -> pq.FileMetaData:
    """Kept, for that of a file of very many row groups takes long, and each of its units asks for it."""
    return metadata_of(footer)


def _version(fs: Any, path: str, unit: Unit) -> tuple[int, str]:
    """What tells this version of a unit's file from another one; raises UserError where it is another already."""
    if is_local(fs):
        try:
            status = Path(path).stat()
        except OSError as error:
            raise UserError(f"{unit.url}: cannot be read: {error}") from None
        size, version = status.st_size, f"{status.st_ino} {status.st_mtime_ns}"
    else:
        entry = attempt(unit.url, lambda: _fresh_info(fs, path))
        size, version = entry["size"], _etag(entry)
        if unit.etag and version != unit.etag:
            raise _changed(unit, f"version {version or 'none'}, not {unit.etag}")
    if size != unit.size:
        raise _changed(unit, f"{size} bytes, not {unit.size}")
    return size, version


def _fresh_info(fs: Any, path: str) -> dict[str, Any]:
    fs.invalidate_cache()
    return fs.info(path)


def _changed(unit: Unit, found: str) -> UserError:
    return UserError(
        f"{unit.url}: changed since it was listed (found {found}); allowed: a source that stays as it is. The same "
        "command, given again, lists it anew"
    )


def _spans(metadata: pq.FileMetaData, unit: Unit, columns: Collection[str]) -> list[tuple[int, int]]:
    """The bytes start..end of a unit's columns, neighbours together."""
    groups = [metadata.row_group(i) for i in range(unit.first, unit.last + 1)]
    chunks = [group.column(j) for group in groups for j in range(group.num_columns)]
    wanted = [chunk for chunk in chunks if chunk.path_in_schema in columns]
    spans: list[tuple[int, int]] = []
    for start, end in sorted(map(bytes_of, wanted)):
        if not 0 <= start <= end <= unit.size:
            raise BadFileError(f"{unit.url}: {unit.row_groups} lie outside of the file")
        if spans and start - spans[-1][1] <= GAP:
            start, end = spans[-1][0], max(end, spans.pop()[1])
        spans.append((start, end))
    return spans


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.schema.names:
        return pa.nulls(table.num_rows, field.type)
    column = table[field.name]
    return column if column.type == field.type else column.cast(field.type)
