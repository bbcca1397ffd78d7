"""Near duplicates: pages that share most of their word 5-grams, found by MinHash and locality-sensitive hashing.

A signature of 256 minima estimates the Jaccard similarity of two pages' 5-grams with a standard deviation of at most
sqrt(J (1 - J) / 256): 0.03 at J = 0.7, 0.02 at 0.9. It is cut into 32 bands of 8; two pages are compared where a band
is equal, which happens with probability 1 - (1 - J^8)^32 (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
3.4), and are near duplicates where at least 75 % of their minima are equal:

    J                 0.5    0.6    0.7    0.75   0.8    0.85     0.9
    compared          12 %   42 %   85 %   97 %   99.7 % 99.996 % all but 2e-8
    near duplicates   none   1e-7   4 %    52 %   98 %   99.995 % all but 2e-8
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from rensa import RMinHash

from lethe.corpora.ngrams import ngrams, words

SHINGLE = 5  # words
MINIMA, BANDS = 256, 32
SIMILAR = 0.75  # shingle and bound are near those with which FineWeb was deduplicated inside each crawl
SEED = 1


def signatures(texts: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """MinHash signatures of texts (valid UTF-8, no null): uint16 (documents, 256), 512 bytes a document.

    16 of the 32 bits of each minimum: two that differ look equal once in 65,536.
    """
    found = words(texts)
    shingles, _ = ngrams(found, SHINGLE)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, found.starts.astype(np.uint64), MINIMA, SEED)
    return np.array(matrix.to_rows(), np.uint32).reshape(-1, MINIMA).astype(np.uint16)


class Near(NamedTuple):
    """`kept`: bool (documents,); `cluster`: the preferred document of each one's cluster, int64 (documents,)."""

    kept: np.ndarray
    cluster: np.ndarray


def near_duplicates(signed: np.ndarray, order: np.ndarray) -> Near:
    """Which of the documents in `order`, the preferred first, stay, given the `signatures` of all.

    A document stays where no preferred one that stays is near it: so each dropped one has a near duplicate that
    stays, and no two that stay are near. A cluster is what dropped documents join; several of it may stay. The result
    depends on the order of preference only. Memory: 128 bytes a document on top of the signatures.
    """
    buckets = _buckets(signed)
    kept, cluster, rank = np.zeros(len(signed), bool), np.arange(len(signed)), np.zeros(len(signed), np.int64)
    kept[order], rank[order] = True, np.arange(len(order))
    staying: dict[int, list[int]] = defaultdict(list)

    def near(document: int) -> list[int]:
        others = {other for bucket in buckets[document].tolist() for other in staying.get(bucket, ())}
        found = np.fromiter(others, np.int64, len(others))
        return found[(signed[found] == signed[document]).mean(1) >= SIMILAR].tolist()

    compared = order[(buckets[order] >= 0).any(1)]
    for document in compared:
        kept[document] = not near(document)
        if kept[document]:
            for bucket in buckets[document].tolist():
                if bucket >= 0:
                    staying[bucket].append(document)
    for document in compared[~kept[compared]]:  # once more, for some that stay came later
        _join(cluster, rank, [document, *near(document)])
    return Near(kept, np.array([_root(cluster, document) for document in range(len(signed))], np.int64))


def _buckets(signed: np.ndarray) -> np.ndarray:
    """For each band the number of those who share it, -1 where a document is alone: int32 (documents, bands)."""
    result = np.full((len(signed), BANDS), -1, np.int32)
    halves = np.ascontiguousarray(signed).view(np.uint64)
    for band in range(BANDS):
        low, high = halves[:, 2 * band], halves[:, 2 * band + 1]
        keys = low * np.uint64(0x9E3779B97F4A7C15) + high * np.uint64(0xD1342543DE82EF95)
        _, inverse, count = np.unique(keys, return_inverse=True, return_counts=True)
        shared = count[inverse] > 1
        result[shared, band] = inverse[shared] * BANDS + band
    return result


def _join(cluster: np.ndarray, rank: np.ndarray, documents: list[int]) -> None:
    roots = {_root(cluster, document) for document in documents}
    cluster[list(roots)] = min(roots, key=rank.__getitem__)


def _root(cluster: np.ndarray, document: int) -> int:
    while cluster[document] != document:
        cluster[document] = document = cluster[cluster[document]]
    return document
