"""The candidates of all units, cut by the thresholds of their corpora: what a merge reads."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lethe.corpora.extract import Extraction
from lethe.corpora.parquet import read_manifest
from lethe.corpora.select import CANDIDATES
from lethe.corpora.source import BATCH_ROWS

CUTTING = ["corpus", "score", "distinct_words"]  # what the thresholds are compared with


class Candidates:
    """Those of all units that reach the thresholds of their corpora; each time they are read, the same in one order."""

    rows: int
    """How many they are."""
    rejects: dict[str, Counter[str]]
    """By corpus: what its units rejected, and as `below_threshold` what they kept for lower thresholds than these."""
    units: dict[str, dict[str, Any]]
    """By corpus: the `folder` of its units, and of them the `candidates` and `bytes` (of all domains together)."""

    def __init__(self, extraction: Extraction) -> None:
        folders = extraction.unit_folders()
        manifests = [manifest for folder in folders if (manifest := read_manifest(folder)) is not None]
        assert len(manifests) == len(folders), "a unit is missing"
        self.files = [folder / name for folder, m in zip(folders, manifests, strict=True) for name in m["files"]]
        self.domains = extraction.domains
        held: dict[str, Counter[str]] = defaultdict(Counter)
        for folder, manifest in zip(folders, manifests, strict=True):
            size = sum(file["bytes"] for file in manifest["files"].values())
            held[folder.parent.name].update({"candidates": manifest["kept"], "bytes": size})
        of_data = {name: documents.folder.name for name, documents in extraction.documents.items()}
        homes = {name: of_data.get(name, extraction.scan_folder.name) for name in extraction.corpora}
        self.units = {name: {"folder": home, **held[home]} for name, home in homes.items()}
        self.rejects = {name: Counter() for name in extraction.corpora}
        for manifest in manifests:
            for name, counts in manifest["rejects"].items():
                self.rejects[name].update(counts)
        self.rows = 0
        for pages in _batches(self.files, CUTTING):
            enough = self._reaches(pages)
            self.rows += pc.sum(enough).as_py() or 0
            for name in pages["corpus"].filter(pc.invert(enough)).to_pylist():
                self.rejects[name]["below_threshold"] += 1

    def batches(self, *columns: str) -> Iterator[pa.Table]:
        """A few hundred rows at a time; all columns where none is named."""
        wanted = list(dict.fromkeys((*columns, *CUTTING))) if columns else None
        for pages in _batches(self.files, wanted):
            yield pages.filter(self._reaches(pages)).select(columns or CANDIDATES.names)

    def _reaches(self, pages: pa.Table) -> pa.Array:
        enough = np.ones(pages.num_rows, bool)
        score, words = (pages[column].to_numpy() for column in ("score", "distinct_words"))
        for name, corpus in self.domains.items():
            low = (score < corpus.min_score) | (words < corpus.min_distinct_words)
            enough[low & pc.equal(pages["corpus"], name).to_numpy()] = False
        return pa.array(enough)


def _batches(files: list[Path], columns: list[str] | None) -> Iterator[pa.Table]:
    for path in files:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                yield pa.Table.from_batches([batch])
