"""From the candidates of all units to the corpora: copies once, budgets, splits, their overlap, and the files.

The units are read in the source's order and what they hold decides, so the result is the same whoever scanned them,
and when. Under 1 KB a candidate is held in memory, half of it its signature; texts stream through.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import VERSION, Extraction
from lethe.corpora.fates import DECIDING, DROPPED, SPLITS, Fates, decide
from lethe.corpora.near import MINIMA, signatures
from lethe.corpora.overlap import overlaps
from lethe.corpora.parquet import PartWriter, read_manifest
from lethe.corpora.select import CANDIDATES, PAGES
from lethe.corpora.source import BATCH_ROWS
from lethe.files import write_json

REPORTED = ("split", "shared_hosts", "documents", "tokens", "hosts", "rejects", "near_duplicates", "overlap")
NAMED_HOSTS = 20  # in the manifest, of those in both splits


def merge(extraction: Extraction) -> None:
    """Write the corpora of an extraction whose units are all scanned, and drop the units.

    Raises UserError where a corpus has too few documents to hold out its share, too few hosts for its `max_host_share`
    or more overlap than its `max_overlap`.
    """
    manifests = [read_manifest(extraction.scratch / unit.id) for unit in extraction.source.units]
    whole = [manifest for manifest in manifests if manifest is not None]
    assert len(whole) == len(manifests), "a unit was not scanned"
    files = [extraction.scratch / manifest["id"] / name for manifest in whole for name in manifest["files"]]
    index, signed = _read(files)
    decided = decide(index, signed, extraction.corpora)
    reports = {name: _report(index, decided, name) for name in extraction.corpora}
    for name, report in reports.items():
        report["rejects"] = dict(sum((Counter(m["rejects"][name]) for m in whole), Counter(report["rejects"])))
        _check_enough(name, report, extraction.corpora[name])
    held_out = sum(report["val"]["tokens"] for report in reports.values())
    overlap = overlaps(partial(_texts, files, decided.fates), list(extraction.corpora), held_out)
    for name, report in reports.items():
        report["overlap"] = overlap[name]
        _check_overlap(name, report, extraction.corpora[name])
    written = _write(files, decided.fates, extraction.folders)
    for name, folder in extraction.folders.items():
        write_json(folder / "manifest.json", _manifest(extraction, name, reports[name], written[name]))
    shutil.rmtree(extraction.scratch)


def _read(files: list[Path]) -> tuple[pa.Table, np.ndarray]:
    """What decides about each candidate (columns DECIDING and page_hash), and their signatures."""
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    tables, signed = [CANDIDATES.empty_table().select(DECIDING)], np.empty((rows, MINIMA), np.uint16)
    hashes, start = np.empty(rows, np.uint64), 0
    for pages in _batches(files, [*DECIDING, "text", "url", "id"]):
        here = slice(start, start + pages.num_rows)
        signed[here], hashes[here] = signatures(pages["text"]), _page_hashes(pages)
        tables.append(pages.select(DECIDING))
        start = here.stop
    return pa.concat_tables(tables).append_column("page_hash", pa.array(hashes)), signed


def _batches(files: list[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    for path in files:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                yield pa.Table.from_batches([batch])


def _page_hashes(pages: pa.Table) -> list[int]:
    """The first 64 bits of sha256 over text, url and id: an order that nobody chose, and that no listing changes."""
    rows = zip(*(pages[column].to_pylist() for column in ("text", "url", "id")), strict=True)
    digests = (hashlib.sha256("\0".join(value or "" for value in row).encode()).digest() for row in rows)
    return [int.from_bytes(digest[:8], "big") for digest in digests]


def _report(index: pa.Table, decided: Fates, name: str) -> dict[str, Any]:
    """Counts of a corpus by split, and of its candidates that were dropped."""
    mine, fates = pc.equal(index["corpus"], name).to_numpy(), decided.fates
    report = {part: _count(index, mine & (fates == part)) for part in SPLITS}
    total = _count(index, mine & np.isin(fates, SPLITS))
    dropped = Counter(fates[mine].tolist())
    return {
        **report,
        **total,
        "split": decided.kinds[name],
        "shared_hosts": _shared_hosts(index, mine, fates),
        "near_duplicates": decided.clusters,
        "rejects": {reason: dropped[reason] for reason in DROPPED},
    }


def _count(index: pa.Table, mask: np.ndarray) -> dict[str, int]:
    rows = index.filter(pa.array(mask))
    hosts = pc.count_distinct(pc.coalesce(rows["host"], rows["text_hash"])).as_py()
    return {"documents": rows.num_rows, "tokens": pc.sum(rows["token_count"]).as_py() or 0, "hosts": hosts}


def _shared_hosts(index: pa.Table, mine: np.ndarray, fates: np.ndarray) -> dict[str, Any]:
    """The hosts in both splits: how many, and of the largest the tokens in each."""
    by_part = []
    for part in SPLITS:
        rows = index.filter(pa.array(mine & (fates == part))).drop_null()
        sums = rows.group_by("host", use_threads=False).aggregate([("token_count", "sum")])
        by_part.append(dict(zip(sums["host"].to_pylist(), sums["token_count_sum"].to_pylist(), strict=True)))
    train, val = by_part
    shared = sorted(train.keys() & val.keys(), key=lambda host: (-train[host] - val[host], host))
    largest = {host: {"train": train[host], "val": val[host]} for host in shared[:NAMED_HOSTS]}
    return {"count": len(shared), "largest": largest}


def _check_enough(name: str, report: dict[str, Any], corpus: CorpusConfig) -> None:
    if not (report["train"]["documents"] and report["val"]["documents"]):
        raise UserError(
            f"corpus {name}: found {report['documents']} documents, too few to hold out {corpus.val_share:.0%} of "
            f"their tokens (rejected: {describe(report['rejects'])}); allowed: a larger source, or a wider "
            f"configs/corpora/{name}.yaml"
        )


def _check_overlap(name: str, report: dict[str, Any], corpus: CorpusConfig) -> None:
    other, share = max(report["overlap"].items(), key=lambda item: item[1])
    if corpus.max_overlap is not None and share > corpus.max_overlap:
        raise UserError(
            f"corpus {name}: max_overlap: found {share:.3%} of val's word 13-grams in the train split of {other}; "
            f"allowed: up to {corpus.max_overlap:.3%}"
        )


def describe(rejects: Mapping[str, int]) -> str:
    """Rejects by reason, the most frequent first."""
    ordered = sorted(rejects.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered if count) or "none"


def _write(files: list[Path], fates: np.ndarray, folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Share the pages out; for each corpus its `files`, and `text_bytes` by split."""
    writers = {(name, part): PartWriter(folder / part, PAGES) for name, folder in folders.items() for part in SPLITS}
    size: Counter[tuple[str, str]] = Counter()
    for pages, fate in _with_fates(files, fates):
        corpus = pages["corpus"].to_numpy()
        for key, writer in writers.items():
            mine = pages.filter(pa.array((corpus == key[0]) & (fate == key[1]))).select(PAGES.names)
            writer.write(mine)
            size[key] += pc.sum(pc.binary_length(mine["text"])).as_py() or 0
    closed = {key: writer.close(folders[key[0]]) for key, writer in writers.items()}
    return {
        name: {
            "files": {file: facts for part in SPLITS for file, facts in closed[name, part].items()},
            "text_bytes": {part: size[name, part] for part in SPLITS},
        }
        for name in folders
    }


def _with_fates(files: list[Path], fates: np.ndarray, *columns: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
    start = 0
    for pages in _batches(files, list(columns) or None):
        yield pages, fates[start : start + pages.num_rows]
        start += pages.num_rows


def _texts(files: list[Path], fates: np.ndarray, part: str) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The texts of a split, corpus by corpus within each few hundred rows."""
    for pages, fate in _with_fates(files, fates, "corpus", "text"):
        pages = pages.filter(pa.array(fate == part))
        for name in pc.unique(pages["corpus"]).to_pylist():
            yield name, pages["text"].filter(pc.equal(pages["corpus"], name))


def _manifest(extraction: Extraction, name: str, report: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    source = extraction.source
    return {
        "version": VERSION,
        "corpus": name,
        "fingerprint": extraction.fingerprint,
        "source": {
            "given": source.given,
            "fingerprint": source.fingerprint,
            "files": len(source.files),
            "rows": source.rows,
            "skipped": extraction.skipped(),
        },
        "corpora": {other: corpus.model_dump(mode="json") for other, corpus in extraction.corpora.items()},
        **{field: report[field] for field in REPORTED},
        "splits": {part: {**report[part], "text_bytes": written["text_bytes"][part]} for part in SPLITS},
        "files": written["files"],
    }
