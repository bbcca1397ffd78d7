"""From the candidates of all units to the corpora: copies once, budgets, splits, their overlap, and the files.

The units are read in the source's order and what they hold decides, so the result is the same whoever scanned them,
and when. Under 1 KB a candidate is held in memory, half of it its signature; texts stream through.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lethe.config import UserError
from lethe.corpora.candidates import Candidates
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import VERSION, Extraction
from lethe.corpora.fates import DECIDING, DROPPED, Fates, decide
from lethe.corpora.named import Corpus
from lethe.corpora.near import MINIMA, signatures
from lethe.corpora.overlap import overlaps
from lethe.corpora.parquet import PartWriter
from lethe.corpora.select import CANDIDATES, PAGES
from lethe.corpora.split import SPLITS
from lethe.files import write_json

REPORTED = (
    "split",
    "shared_hosts",
    "documents",
    "tokens",
    "hosts",
    "rejects",
    "near_duplicates",
    "duplicate_ids",
    "overlap",
)
NAMED_HOSTS = 20  # in the manifest, of those in both splits
NAMED_IDS = 5  # in the manifest, of those that several candidates have


def merge(extraction: Extraction) -> None:
    """Write the corpora of an extraction whose units are all there, of the candidates that reach its thresholds.

    Raises UserError where a corpus has too few documents to hold out its share, too few hosts for its `max_host_share`
    or more overlap than its `max_overlap`.
    """
    candidates = Candidates(extraction)
    index, signed = _read(candidates)
    decided = decide(index, signed, extraction.corpora)
    repeated = _repeated_ids(index)
    reports = {name: _report(index, decided, repeated, name) for name in extraction.corpora}
    for name, report in reports.items():
        report["rejects"] = dict(candidates.rejects[name] + Counter(report["rejects"]))
        _check_enough(name, report, extraction.corpora[name])
    held_out = sum(report["val"]["tokens"] for report in reports.values())
    overlap = overlaps(partial(_texts, candidates, decided.fates), list(extraction.corpora), held_out)
    for name, report in reports.items():
        report["overlap"] = overlap[name]
        _check_overlap(name, report, extraction.corpora[name])
    written = _write(candidates, decided.fates, extraction.folders)
    units = candidates.units
    for name, folder in extraction.folders.items():
        write_json(folder / "manifest.json", _manifest(extraction, units[name], name, reports[name], written[name]))


def _read(candidates: Candidates) -> tuple[pa.Table, np.ndarray]:
    """What decides about each candidate (columns DECIDING, id and page_hash), and their signatures."""
    tables = [CANDIDATES.empty_table().select([*DECIDING, "id"])]
    signed, hashes, start = np.empty((candidates.rows, MINIMA), np.uint16), np.empty(candidates.rows, np.uint64), 0
    for pages in candidates.batches(*DECIDING, "text", "url", "id"):
        here = slice(start, start + pages.num_rows)
        signed[here], hashes[here] = signatures(pages["text"]), _page_hashes(pages)
        tables.append(pages.select([*DECIDING, "id"]))
        start = here.stop
    return pa.concat_tables(tables).append_column("page_hash", pa.array(hashes)), signed


def _page_hashes(pages: pa.Table) -> list[int]:
    """The first 64 bits of sha256 over text, url and id: an order that nobody chose, and that no listing changes."""
    rows = zip(*(pages[column].to_pylist() for column in ("text", "url", "id")), strict=True)
    digests = (hashlib.sha256("\0".join(value or "" for value in row).encode()).digest() for row in rows)
    return [int.from_bytes(digest[:8], "big") for digest in digests]


def _repeated_ids(index: pa.Table) -> pa.Array:
    """The ids that more than one candidate has, over all corpora; a mistake of the source that spoils nothing here."""
    counts = pc.value_counts(index["id"].combine_chunks().drop_null())
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def _report(index: pa.Table, decided: Fates, repeated: pa.Array, name: str) -> dict[str, Any]:
    """Counts of a corpus by split, and of its candidates that were dropped."""
    mine, fates = pc.equal(index["corpus"], name).to_numpy(), decided.fates
    report = {part: _count(index, mine & (fates == part)) for part in SPLITS}
    total = _count(index, mine & np.isin(fates, SPLITS))
    dropped = Counter(fates[mine].tolist())
    doubled = sorted(set(index["id"].filter(pc.and_(pa.array(mine), pc.is_in(index["id"], repeated))).to_pylist()))
    return {
        **report,
        **total,
        "split": decided.kinds[name],
        "shared_hosts": _shared_hosts(index, mine, fates),
        "near_duplicates": decided.clusters,
        "duplicate_ids": {"count": len(doubled), "some": doubled[:NAMED_IDS]},
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
        rows = index.filter(pa.array(mine & (fates == part))).select(["host", "token_count"]).drop_null()
        sums = rows.group_by("host", use_threads=False).aggregate([("token_count", "sum")])
        by_part.append(dict(zip(sums["host"].to_pylist(), sums["token_count_sum"].to_pylist(), strict=True)))
    train, val = by_part
    shared = sorted(train.keys() & val.keys(), key=lambda host: (-train[host] - val[host], host))
    largest = {host: {"train": train[host], "val": val[host]} for host in shared[:NAMED_HOSTS]}
    return {"count": len(shared), "largest": largest}


def _check_enough(name: str, report: dict[str, Any], corpus: Corpus) -> None:
    if not (report["train"]["documents"] and report["val"]["documents"]):
        is_domain = isinstance(corpus, CorpusConfig)
        larger = f"source, or a wider configs/corpora/{name}.yaml" if is_domain else "data set"
        raise UserError(
            f"corpus {name}: found {report['documents']} documents, too few to hold out {corpus.val_share:.0%} of "
            f"their tokens (rejected: {describe(report['rejects'])}); allowed: a larger {larger}"
        )


def _check_overlap(name: str, report: dict[str, Any], corpus: Corpus) -> None:
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


def _write(candidates: Candidates, fates: np.ndarray, folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Share the pages out; for each corpus its `files`, and `text_bytes` by split."""
    writers = {(name, part): PartWriter(folder / part, PAGES) for name, folder in folders.items() for part in SPLITS}
    size: Counter[tuple[str, str]] = Counter()
    for pages, fate in _with_fates(candidates, fates):
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


def _with_fates(candidates: Candidates, fates: np.ndarray, *columns: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
    start = 0
    for pages in candidates.batches(*columns):
        yield pages, fates[start : start + pages.num_rows]
        start += pages.num_rows


def _texts(candidates: Candidates, fates: np.ndarray, part: str) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The texts of a split, corpus by corpus within each few hundred rows."""
    for pages, fate in _with_fates(candidates, fates, "corpus", "text"):
        pages = pages.filter(pa.array(fate == part))
        for name in pc.unique(pages["corpus"]).to_pylist():
            yield name, pages["text"].filter(pc.equal(pages["corpus"], name))


def _manifest(
    extraction: Extraction, units: dict[str, Any], name: str, report: dict[str, Any], written: dict[str, Any]
) -> dict[str, Any]:
    source, documents = extraction.source, extraction.documents.get(name)
    return {
        "version": VERSION,
        "corpus": name,
        "fingerprint": extraction.fingerprint,
        "source": source
        and {
            "given": source.given,
            "fingerprint": source.fingerprint,
            "files": len(source.files),
            "rows": source.rows,
            "skipped": extraction.skipped(),
        },
        "dataset": documents and documents.opened.identity,
        "units": units,
        "corpora": {other: corpus.model_dump(mode="json") for other, corpus in extraction.corpora.items()},
        **{field: report[field] for field in REPORTED},
        "splits": {part: {**report[part], "text_bytes": written["text_bytes"][part]} for part in SPLITS},
        "files": written["files"],
    }
