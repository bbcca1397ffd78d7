"""From the candidates of all units to the corpora: equal texts once, the budget, the split, and the files.

The units are read in the source's order, so the result is the same whoever scanned them, and when. Only what decides
(host, hash, tokens) is held in memory; texts stream through.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import VERSION, Extraction
from lethe.corpora.parquet import PartWriter, read_manifest
from lethe.corpora.select import CANDIDATES, PAGES
from lethe.corpora.source import BATCH_ROWS
from lethe.corpora.split import Kind, split
from lethe.files import write_json

DECIDING = ["corpus", "host", "text_hash", "token_count"]
SPLITS = ("train", "val")


def merge(extraction: Extraction) -> None:
    """Write the corpora of an extraction whose units are all scanned, and drop the units.

    Raises UserError where a corpus has too few documents to hold out its share.
    """
    manifests = [read_manifest(extraction.scratch / unit.id) for unit in extraction.source.units]
    whole = [manifest for manifest in manifests if manifest is not None]
    assert len(whole) == len(manifests), "a unit was not scanned"
    files = [extraction.scratch / manifest["id"] / name for manifest in whole for name in manifest["files"]]
    tables = [pq.read_table(path, columns=DECIDING, use_threads=False) for path in files]
    index = pa.concat_tables([CANDIDATES.empty_table().select(DECIDING), *tables])
    fates, kinds = decide(index, extraction.corpora)
    reports = {name: _report(index, fates, name) for name in extraction.corpora}
    for name, report in reports.items():
        report["rejects"] = dict(sum((Counter(m["rejects"][name]) for m in whole), Counter(report["rejects"])))
        _check_enough(name, report, extraction.corpora[name])
    written = _write(files, fates, extraction.folders)
    for name, folder in extraction.folders.items():
        write_json(folder / "manifest.json", _manifest(extraction, name, kinds[name], reports[name], written[name]))
    shutil.rmtree(extraction.scratch)


def decide(index: pa.Table, corpora: Mapping[str, CorpusConfig]) -> tuple[np.ndarray, dict[str, Kind]]:
    """What becomes of each candidate (columns DECIDING): train, val, duplicate or over_budget, object (candidates,).

    Of equal texts, in one corpus or in two, the first stays; of a corpus's documents as many, from the first on, as
    fit its budget. Also how each corpus was split.
    """
    fates, kinds = np.full(index.num_rows, "duplicate", object), {}
    rows = index.select(["text_hash"]).append_column("row", pa.array(np.arange(index.num_rows)))
    first = rows.group_by("text_hash", use_threads=False).aggregate([("row", "min")])["row_min"].to_numpy()
    is_first = np.zeros(index.num_rows, bool)
    is_first[first] = True
    for name, corpus in corpora.items():
        mine = np.flatnonzero(is_first & pc.equal(index["corpus"], name).to_numpy())
        tokens = index["token_count"].to_numpy()[mine]
        inside = np.cumsum(tokens) <= (corpus.tokens or np.inf)
        fates[mine[~inside]] = "over_budget"
        mine, tokens = mine[inside], tokens[inside]
        chosen = index.take(pa.array(mine)).combine_chunks()
        val, kinds[name] = split(chosen["host"], chosen["text_hash"], tokens, corpus.val_share)
        fates[mine] = np.where(val, "val", "train").astype(object)
    return fates, kinds


def _report(index: pa.Table, fates: np.ndarray, name: str) -> dict[str, Any]:
    """Counts of a corpus by split, and of its candidates that were dropped."""
    mine = pc.equal(index["corpus"], name).to_numpy()
    report = {part: _count(index, mine & (fates == part)) for part in SPLITS}
    total = _count(index, mine & np.isin(fates, SPLITS))
    dropped = Counter(fates[mine].tolist())
    return {**report, **total, "rejects": {reason: dropped[reason] for reason in ("duplicate", "over_budget")}}


def _count(index: pa.Table, mask: np.ndarray) -> dict[str, int]:
    rows = index.filter(pa.array(mask))
    hosts = pc.count_distinct(pc.coalesce(rows["host"], rows["text_hash"])).as_py()
    return {"documents": rows.num_rows, "tokens": pc.sum(rows["token_count"]).as_py() or 0, "hosts": hosts}


def _check_enough(name: str, report: dict[str, Any], corpus: CorpusConfig) -> None:
    if not (report["train"]["documents"] and report["val"]["documents"]):
        raise UserError(
            f"corpus {name}: found {report['documents']} documents, too few to hold out {corpus.val_share:.0%} of "
            f"their tokens (rejected: {describe(report['rejects'])}); allowed: a larger source, or a wider "
            f"configs/corpora/{name}.yaml"
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


def _with_fates(files: list[Path], fates: np.ndarray) -> Iterator[tuple[pa.Table, np.ndarray]]:
    start = 0
    for path in files:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(BATCH_ROWS, use_threads=False):
                yield pa.Table.from_batches([batch]), fates[start : start + batch.num_rows]
                start += batch.num_rows


def _manifest(
    extraction: Extraction, name: str, kind: Kind, report: dict[str, Any], written: dict[str, Any]
) -> dict[str, Any]:
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
        },
        "corpora": {other: corpus.model_dump(mode="json") for other, corpus in extraction.corpora.items()},
        "split": kind,
        **{field: report[field] for field in ("documents", "tokens", "hosts", "rejects")},
        "splits": {part: {**report[part], "text_bytes": written["text_bytes"][part]} for part in SPLITS},
        "files": written["files"],
    }
