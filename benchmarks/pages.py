"""Pages in FineWeb's form to measure on: words drawn by Zipf's law with a long tail, a share of them of a domain.

No page says anything; what matters for speed is as on the web: how long pages and words are, how often a word of a
domain stands on a page of something else (at most 2 in 100 words on most, median none), how large row groups are.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lethe.corpora.domains import load_corpus_config
from lethe.corpora.schema import FINEWEB

ROW_GROUP_ROWS = 1000  # as in FineWeb
MEAN_WORDS, SPREAD = 340, 0.9  # of a page; log-normal
TAIL = 300_000  # words that nobody else uses
DOMAIN_SHARE = 0.05  # of the pages
DOMAIN_DENSITY = 0.1  # of a domain page's words
STRAY_DENSITY = 0.003  # of another page's words, exponentially distributed

# The most frequent words of English, roughly in order, and syllables for words that nobody uses.
_COMMON = """
the of and to in a is that for it was on are as with be at this have from or by one had not but what all were when we
there can an your which their said if do will each about how up out them then she many some so these would other into
has more her two like him see time could no make than first been its who now people my made over did down only way
find use may water long little very after words called just where most know get through back much before go good new
write our used me man too any day same right look think also around another came come work three word must because
does part even place well such here take why things help put years different away again off went old number great tell
men say small every found still between name should home big give air line set own under read last never us left end
along while might next sound below saw something thought both few those always looked show large often together asked
house world going want school important until form keep children feet land side without boy once enough took sometimes
four head above kind began almost live page got earth need far hand high year mother light parts country father let
night following picture being study second eyes soon times story boys since white days ever paper hard near sentence
better best across during today others however sure means knew try told young miles sun ways thing whole hear example
heard several change answer room sea against top turned learn point city play toward five using himself usually money
seen car morning given family information
"""
_SYLLABLES = "ba con der el fi gra hol in jas kel lor men nor op pre qui ran ster tal un ver wix yor zen ing ed ly"


def write_pages(folder: Path, pages: int, files: int, seed: int = 0) -> list[Path]:
    """Write so many pages to files in `folder`, snappy as FineWeb's tools leave them; returns the files."""
    rng = np.random.default_rng(seed)
    corpora = [load_corpus_config(name) for name in ("food", "automotive")]
    of_domains = {word for corpus in corpora for word in corpus.words}
    vocabulary = np.array([*(word for word in _COMMON.split() if word not in of_domains), *_tail(rng)], object)
    shares = 1 / (np.arange(len(vocabulary)) + 3.0)
    edges = np.cumsum(shares / shares.sum())
    domains = [np.array(corpus.words, object) for corpus in corpora]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05}.parquet" for number in range(files)]
    for number, path in enumerate(paths):
        rows = pages * (number + 1) // files - pages * number // files
        table = _table([_page(rng, vocabulary, edges, domains) for _ in range(rows)], rng, number)
        pq.write_table(table, path, row_group_size=ROW_GROUP_ROWS)
    return paths


def _tail(rng: np.random.Generator) -> list[str]:
    syllables = _SYLLABLES.split()
    picks = rng.integers(len(syllables), size=(TAIL, 4))
    lengths = rng.choice([2, 2, 3, 3, 4], TAIL)
    return ["".join(syllables[i] for i in row[:length]) for row, length in zip(picks, lengths, strict=True)]


def _page(rng: np.random.Generator, vocabulary: np.ndarray, edges: np.ndarray, domains: list[np.ndarray]) -> str:
    count = max(40, int(rng.lognormal(np.log(MEAN_WORDS), SPREAD)))
    words = vocabulary[np.minimum(np.searchsorted(edges, rng.random(count)), len(vocabulary) - 1)]
    mine = rng.random() < DOMAIN_SHARE
    chosen = int(rng.integers(len(domains)))
    for number, domain in enumerate(domains):
        density = DOMAIN_DENSITY if mine and number == chosen else rng.exponential(STRAY_DENSITY)
        here = np.flatnonzero(rng.random(count) < density)
        words[here] = domain[rng.integers(len(domain), size=len(here))]
    ends = np.flatnonzero(rng.random(count) < 0.07)
    words[ends] = words[ends] + np.where(
        rng.random(len(ends)) < 0.25, ".\n", np.where(rng.random(len(ends)) < 0.5, ".", ",")
    )
    return " ".join(words.tolist())


def _table(texts: list[str], rng: np.random.Generator, number: int) -> pa.Table:
    count = len(texts)
    hosts = rng.zipf(1.3, count) % 100_000
    crawl = "s3://commoncrawl/crawl-data/CC-MAIN-2024-10/segments"
    names = [f"{number:03}{row:08}" for row in range(count)]
    columns = {
        "text": texts,
        "id": [f"<urn:uuid:{name}-{host:08x}-4c1d-9e2f>" for name, host in zip(names, hosts, strict=True)],
        "dump": ["CC-MAIN-2024-10"] * count,
        "url": [
            f"https://www.site{host}.example.com/{name}/page-{name}.html"
            for name, host in zip(names, hosts, strict=True)
        ],
        "date": ["2024-02-29T12:34:56Z"] * count,
        "file_path": [f"{crawl}/{name}/warc/{name}.warc.gz" for name in names],
        "language": ["en"] * count,
        "language_score": rng.uniform(0.65, 1, count),
        "token_count": [len(text) // 4 for text in texts],
    }
    return pa.table(columns, FINEWEB)
