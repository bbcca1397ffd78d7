"""Data sets for configs/corpora/{web,fiction,other}.yaml, cut from labelled pages: near domains, and a third one.

python -m benchmarks.labelled DATA_FOLDER OUT_FOLDER. DATA_FOLDER holds pages (*.parquet, FineWeb's row form) and
labels/dev-labels.parquet (columns id, domain, source, ambiguous). Written in the order of the pages, as they came:

web.parquet      web pages labelled other, not ambiguous, without what the rules of food and automotive choose and what
                 scores near it (from `scan_score` on)
fiction.parquet  motor tours: pieces of motoring books labelled other, ambiguous ones too
other.parquet    encyclopaedia and web pages labelled other, not ambiguous, the first 3 million tokens of them
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.domains import COLUMNS
from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig, load_corpus_config
from lethe.corpora.score import fits, score
from lethe.corpora.source import open_source, read_pages
from lethe.program import run_program

LABELS = Path("labels", "dev-labels.parquet")
DOMAINS = ("food", "automotive")
WEB, ENCYCLOPAEDIA, MOTORING_BOOKS = "weborganizer-cc", "wikipedia-en", "gutenberg-motoring"
OTHER_TOKENS = 3_000_000  # in the pages' own token_count


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="the pages and their labels")
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="where the data sets go; made if missing")
    given = parser.parse_args(argv)
    tables = cut(given.data, OTHER_TOKENS)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        path = given.out / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd")
        print(f"{path}: {table.num_rows:,} pages, {pc.sum(table['token_count']).as_py() or 0:,} tokens")
    return 0


def cut(folder: Path, other_tokens: int) -> dict[str, pa.Table]:
    """The pages of each data set by its name, schema FINEWEB; UserError for pages or labels that cannot be read."""
    labels = _read_labels(folder / LABELS)
    domains = [load_corpus_config(name) for name in DOMAINS]
    parts: dict[str, list[pa.Table]] = {"web": [], "fiction": [], "other": []}
    for unit in open_source(str(folder.resolve()), Path.cwd()).units:
        for pages in read_pages(unit):
            for name, mine in _choose(pages, labels, domains).items():
                parts[name].append(pages.filter(mine))
    tables = {name: pa.concat_tables(part) for name, part in parts.items()}
    return tables | {"other": _first(tables["other"], other_tokens)}


def _read_labels(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=COLUMNS).combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"DATA_FOLDER: found {path}: {error}; allowed: Parquet with {', '.join(COLUMNS)}") from None


def _choose(pages: pa.Table, labels: pa.Table, domains: list[CorpusConfig]) -> Mapping[str, pa.ChunkedArray]:
    """Which pages go into each data set, bool (rows,); a page without a label into none."""
    known = labels.take(pc.index_in(pages["id"], labels["id"]))
    other, source = pc.equal(known["domain"], "other"), known["source"]
    sure = pc.and_(other, pc.invert(known["ambiguous"]))
    scores = score(pages, domains)
    near = np.any([fits(scored, domain) for scored, domain in zip(scores, domains, strict=True)], axis=0)
    return {
        "web": pc.and_(pc.and_(sure, pc.equal(source, WEB)), pa.array(~near)),
        "fiction": pc.and_(other, pc.equal(source, MOTORING_BOOKS)),
        "other": pc.and_(sure, pc.is_in(source, pa.array([WEB, ENCYCLOPAEDIA]))),
    }


def _first(pages: pa.Table, tokens: int) -> pa.Table:
    """The first pages, as many as make so many tokens."""
    before = np.cumsum(pages["token_count"].to_numpy()) - pages["token_count"].to_numpy()
    return pages.filter(pa.array(before < tokens))


if __name__ == "__main__":
    run_program(main)
