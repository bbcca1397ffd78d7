"""Precision and recall of the domain rules on labelled pages, with 95 % intervals.

python -m benchmarks.domains --source GLOB --labels FILE. The labels are Parquet with columns id, domain, source and
ambiguous; ambiguous pages are left out. The last line is one JSON object: corpus -> source (or ALL) -> figures.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.data import as_kept
from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.prevalence import Share, wilson
from lethe.corpora.select import select
from lethe.corpora.source import open_source, read_pages
from lethe.program import run_program

COLUMNS = ["id", "domain", "source", "ambiguous"]


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, metavar="GLOB", help="the pages, Parquet of FineWeb's row form")
    parser.add_argument("--labels", required=True, type=Path, metavar="FILE", help="what they are")
    parser.add_argument("--corpora", nargs="+", default=["food", "automotive"], metavar="NAME")
    given = parser.parse_args(argv)
    corpora = {name: as_kept(name) for name in given.corpora}
    labels = read_labels(given.labels)
    started = time.process_time()
    found = classify(given.source, corpora)
    seconds = time.process_time() - started
    figures = measure(labels, found, list(corpora))
    print(table(figures))
    print(f"{labels.num_rows:,} labelled pages without the ambiguous ones; classified in {seconds:.0f} CPU-seconds")
    print(json.dumps(figures))
    return 0


def read_labels(path: Path) -> pa.Table:
    """Columns id, domain and source of the pages that are not ambiguous; UserError for another file."""
    try:
        labels = pq.read_table(path, columns=COLUMNS)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--labels: found {path}: {error}; allowed: Parquet with {', '.join(COLUMNS)}") from None
    return labels.filter(pc.invert(pc.fill_null(labels["ambiguous"], False))).select(COLUMNS[:-1])


def classify(source: str, corpora: dict[str, CorpusConfig]) -> dict[str, str]:
    """The corpus of every page that has one, by id: what an extraction would keep, before duplicates are dropped."""
    found: dict[str, str] = {}
    for unit in open_source(source, Path.cwd()).units:
        for pages in read_pages(unit):
            kept, _ = select(pages, corpora)
            found |= dict(zip(kept["id"].to_pylist(), kept["corpus"].to_pylist(), strict=True))
    return found


def measure(labels: pa.Table, found: dict[str, str], corpora: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures of each corpus on each source and on all together."""
    predicted = np.array([found.get(page, "") for page in labels["id"].to_pylist()])
    domain, source = (np.array(labels[name].to_pylist()) for name in ("domain", "source"))
    return {
        corpus: {
            name: figures
            for name, where in _sources(source)
            if (figures := _figures((predicted == corpus)[where], (domain == corpus)[where]))
        }
        for corpus in corpora
    }


def _sources(source: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for name in sorted(set(source.tolist())):
        yield name, source == name
    yield "ALL", np.ones(len(source), bool)


def _figures(predicted: np.ndarray, true: np.ndarray) -> dict[str, Any] | None:
    hits = int((predicted & true).sum())
    if not (predicted.any() or true.any()):
        return None
    precision, recall = interval(hits, int(predicted.sum())), interval(hits, int(true.sum()))
    return {
        "precision": precision and precision[0],
        "recall": recall and recall[0],
        "precision_interval": precision and precision[1:],
        "recall_interval": recall and recall[1:],
        "pages": int(true.sum()),
    }


def interval(hits: int, n: int) -> Share | None:
    """A share and its 95 % interval; None of nothing."""
    return wilson(hits / n, n) if n else None


def table(figures: dict[str, dict[str, dict[str, Any]]]) -> str:
    """For people."""
    lines = [f"{'corpus':<12}{'source':<26}{'pages':>8}  {'precision':<24}recall"]
    for corpus, sources in figures.items():
        for source, row in sources.items():
            shown = [_shown(row[name], row[f"{name}_interval"]) for name in ("precision", "recall")]
            lines.append(f"{corpus:<12}{source:<26}{row['pages']:>8,}  {shown[0]:<24}{shown[1]}")
    return "\n".join(lines)


def _shown(share: float | None, between: tuple[float, float] | None) -> str:
    return "-" if share is None or between is None else f"{share:.3f} ({between[0]:.3f} to {between[1]:.3f})"


if __name__ == "__main__":
    run_program(main)
