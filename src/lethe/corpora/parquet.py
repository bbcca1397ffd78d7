"""Folders of Parquet files with a manifest: written whole or not at all, finished when the manifest is there."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lethe.files import sha256

ROW_GROUP_BYTES = 32_000_000  # in memory
PART_BYTES = 512_000_000  # in memory; on disk about a third of it


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing or cut, or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished folder; None where it is missing or cut, or a file it lists is not whole."""
    manifest = read_json(folder / "manifest.json")
    try:
        whole = manifest and all(
            (folder / name).stat().st_size == file["bytes"] for name, file in manifest["files"].items()
        )
    except (OSError, KeyError, TypeError, AttributeError):
        return None
    return manifest if whole else None


class PartWriter:
    """Writes tables to FOLDER/part-00000.parquet and so on; where a part or row group ends depends on the rows only.

    Peak memory is a row group of 32 MB, whatever is written.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self.parts: list[Path] = []
        self.writer: pq.ParquetWriter | None = None
        self.waiting: list[pa.Table] = []
        self.waiting_bytes = self.part_bytes = 0
        folder.mkdir(parents=True, exist_ok=True)
        for left_by_a_killed_process in folder.glob(".part-*"):
            left_by_a_killed_process.unlink(missing_ok=True)

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table of the writer's schema."""
        if table.num_rows:
            self.waiting.append(table)
            self.waiting_bytes += table.nbytes
        if self.waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()
        if self.part_bytes >= PART_BYTES:
            self._end_part()

    def close(self, below: Path) -> dict[str, dict[str, Any]]:
        """End the last part; bytes, rows and sha256 of every part, under its path below the folder `below`."""
        if self.waiting:
            self._flush()
        self._end_part()
        return {
            path.relative_to(below).as_posix(): {
                "bytes": path.stat().st_size,
                "rows": pq.read_metadata(path).num_rows,
                "sha256": sha256(path),
            }
            for path in self.parts
        }

    def _flush(self) -> None:
        table = pa.concat_tables(self.waiting)
        if self.writer is None:
            self.parts.append(self.folder / f"part-{len(self.parts):05d}.parquet")
            self.writer = pq.ParquetWriter(_temporary(self.parts[-1]), self.schema, compression="zstd")
        self.writer.write_table(table, row_group_size=table.num_rows)
        self.part_bytes += self.waiting_bytes
        self.waiting, self.waiting_bytes = [], 0

    def _end_part(self) -> None:
        if self.writer is not None:
            self.writer.close()
            _temporary(self.parts[-1]).replace(self.parts[-1])
            self.writer, self.part_bytes = None, 0


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")
