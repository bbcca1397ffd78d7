"""How much memory the pages of a Parquet file take, told by the headers before them, not by the footer.

A footer can lie, and a few hundred bytes can decode to gigabytes; the decoder allocates what a page's header says.
"""

from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

MAX_PAGE_BYTES = 1 << 28  # decompressed
HEADER_GUESS = 1 << 12  # bytes; statistics of long texts can make a header longer


class _Header(NamedTuple):
    length: int
    uncompressed: int
    compressed: int
    values: int


def largest_page(file: BinaryIO, metadata: pq.FileMetaData, groups: range, columns: list[str]) -> int:
    """Bytes, decompressed, of the largest page of these columns in these row groups.

    No value is larger than the page it stands in, or than the dictionary page it points into. Raises ArrowInvalid
    where a page's header cannot be read, reaches beyond its column, or tells of more values than the row group has or
    of more than MAX_PAGE_BYTES.
    """
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    indices = [i for i, name in enumerate(names) if name in columns]
    largest = 0
    for group in groups:
        row_group = metadata.row_group(group)
        for i in indices:
            largest = max(largest, _largest(file, row_group.column(i), row_group.num_rows, f"column {names[i]}"))
    return largest


def _largest(file: BinaryIO, chunk: Any, rows: int, where: str) -> int:
    (start, end), largest = bytes_of(chunk), 0
    while start < end:
        header = _read_header(file, start, end, where)
        if header.values > rows:
            raise pa.ArrowInvalid(f"{where}: a page tells of {header.values:,} values; the row group has {rows:,} rows")
        if max(header.uncompressed, header.compressed) > MAX_PAGE_BYTES:
            raise pa.ArrowInvalid(
                f"{where}: a page takes {header.uncompressed:,} bytes; at most {MAX_PAGE_BYTES:,} are read"
            )
        largest = max(largest, header.uncompressed)
        start += header.length + header.compressed
        if start > end or header.compressed < 0 or header.uncompressed < 0:
            raise pa.ArrowInvalid(f"{where}: a page reaches beyond its column")
    return largest


def bytes_of(chunk: Any) -> tuple[int, int]:
    """Where a column of a row group lies in its file: start..end."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset)
    return start, start + chunk.total_compressed_size


def _read_header(file: BinaryIO, start: int, end: int, where: str) -> _Header:
    guess = HEADER_GUESS
    while True:
        file.seek(start)
        data = file.read(min(guess, end - start))
        try:
            return _parse(data)
        except IndexError:  # cut
            if guess >= end - start or guess >= MAX_PAGE_BYTES:
                raise pa.ArrowInvalid(f"{where}: a page has no whole header") from None
            guess *= 16
        except (ValueError, RecursionError):
            raise pa.ArrowInvalid(f"{where}: a page has no header that can be read") from None


def _parse(data: bytes) -> _Header:
    """A PageHeader (parquet-format, parquet.thrift) in Thrift's compact protocol."""
    reader, values = _Compact(data), {2: 0, 3: 0}
    for field, kind in reader.fields():
        if field in (2, 3) and kind == 5:
            values[field] = reader.integer()
        elif field in (5, 8) and kind == 12:  # DataPageHeader, DataPageHeaderV2; their field 1 is num_values
            for inner, inner_kind in reader.fields():
                if inner == 1 and inner_kind == 5:
                    values[5] = reader.integer()
                else:
                    reader.skip(inner_kind)
        else:
            reader.skip(kind)
    return _Header(reader.at, values[2], values[3], values.get(5, 0))


class _Compact:
    """Just so much of Thrift's compact protocol as passing over a struct needs."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def fields(self) -> Any:
        """(id, type) of each field of a struct; the caller reads or skips its value before it asks for the next."""
        field = 0
        while (byte := self._byte()) != 0:
            delta, kind = byte >> 4, byte & 15
            field = field + delta if delta else self.integer()
            yield field, kind

    def integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def skip(self, kind: int) -> None:
        if kind in (4, 5, 6):
            self._varint()
        elif kind == 3:
            self.at += 1
        elif kind == 7:
            self.at += 8
        elif kind == 8:
            length = self._varint()
            self.at += length
        elif kind == 12:
            for _, inner in self.fields():
                self.skip(inner)
        elif kind not in (1, 2):  # booleans are in the type; lists and maps are in no page header
            raise ValueError(kind)
        if self.at > len(self.data):
            raise IndexError

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError

    def _byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return byte
