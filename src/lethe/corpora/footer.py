"""The footer of a Parquet file: what it says of the file, and whether the file has the columns of a source."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from lethe.config import UserError
from lethe.corpora.schema import FINEWEB

NEEDED = ("text", "url", "id", "language", "language_score", "token_count")
FOOTER_GUESS = 1 << 16
MAX_FOOTER_BYTES = 1 << 26  # takes about eight times as much when it is read


class BadFileError(UserError):
    """A file, or row groups of it, that hold no pages one can read: what `on_bad_file: skip` passes over."""


def read_footer(read: Callable[[int, int], bytes], size: int) -> bytes:
    """The last bytes of a Parquet file of `size` bytes: metadata, its length in 4 bytes, and the mark PAR1.

    Raises ArrowInvalid where they are something else, or too long.
    """
    if size < 12:
        raise pa.ArrowInvalid(f"found {size} bytes; allowed: whole Parquet files")
    start = max(0, size - FOOTER_GUESS)
    tail = read(start, size)
    length = 8 + int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] == b"PARE":
        raise pa.ArrowInvalid("found an encrypted footer; allowed: whole, unencrypted Parquet files")
    if tail[-4:] != b"PAR1" or length > size:
        raise pa.ArrowInvalid("found no Parquet footer at its end; allowed: whole, unencrypted Parquet files")
    if length > MAX_FOOTER_BYTES:
        raise pa.ArrowInvalid(f"found a footer of {length:,} bytes; allowed: up to {MAX_FOOTER_BYTES:,}")
    if length > len(tail):
        tail = read(size - length, start) + tail
    return tail[-length:]


def metadata_of(footer: bytes) -> pq.FileMetaData:
    """A footer decoded. Raises ArrowException."""
    return pq.read_metadata(pa.BufferReader(b"PAR1" + footer))


def check_columns(url: str, schema: pa.Schema) -> None:
    """Raises BadFileError where a needed column is missing, or one has another type than FINEWEB's in any width."""
    missing = [name for name in NEEDED if name not in schema.names]
    if missing:
        raise BadFileError(
            f"{url}: column {missing[0]}: missing (found: {', '.join(schema.names)}); allowed: files that have "
            f"{', '.join(NEEDED)}"
        )
    for field in FINEWEB:
        if field.name in schema.names and not _is_like(schema.field(field.name).type, field.type):
            found = schema.field(field.name).type
            raise BadFileError(f"{url}: column {field.name}: found type {found}; allowed: {field.type}")


def _is_like(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column may stand for the wanted one: string, integer and number in any width."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if wanted == pa.string():
        return pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_null(found)
    if wanted == pa.int64():
        return pa.types.is_integer(found)
    return pa.types.is_floating(found)
