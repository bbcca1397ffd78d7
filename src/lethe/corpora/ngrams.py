"""Hashes of the words of many pages at once, and of their word n-grams: the same on every machine, in every process.

A word is a run of letters and digits in lower case. Outside ASCII every character counts as a letter but those of
U+0080 to U+00BF and U+2000 to U+2FFF: spaces, dashes, quotation marks and signs, which come and go between copies.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PLACES = 64  # in a word; letters further on are hashed as if they stood 64 earlier

# Tabulation hashing: a random number for each letter at each place of a word, summed. A raw stream, for numpy may
# change how it draws from one.
_TABLE = np.random.PCG64(13).random_raw(PLACES * 256)
_LETTER = np.array([chr(byte).isalnum() or byte >= 0x80 for byte in range(256)])
_SIGNS = ((0xC2, 2), (0xE2, 3))  # first byte and length of the characters outside ASCII that are no letters
_BASE = 0xD1342543DE82EF95
_INVERSE = pow(_BASE, -1, 1 << 64)


class Words(NamedTuple):
    """`hashes`: uint64 (words,), of all documents one after the other; `starts`: int64 (documents + 1,)."""

    hashes: np.ndarray
    starts: np.ndarray


def words(texts: pa.ChunkedArray | pa.Array) -> Words:
    """The words of texts (valid UTF-8, no null), 64 bits each. Memory: about 20 bytes for a byte of text."""
    # The space ends the last word, so that none reaches into the next document.
    joined = pc.binary_join_element_wise(pc.utf8_lower(texts), "", " ")
    joined = joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
    _, ends, data = joined.buffers()
    starts = np.frombuffer(ends, np.int32)[joined.offset : joined.offset + len(joined) + 1]
    letters = np.frombuffer(data or b"", np.uint8)[starts[0] : starts[-1]]
    is_letter = _LETTER[letters]
    for lead, size in _SIGNS:
        for byte in range(size):
            is_letter[np.flatnonzero(letters == lead) + byte] = False
    edges = np.flatnonzero(np.diff(is_letter.view(np.int8), prepend=0))
    first, length = edges[::2], np.diff(edges)[::2]
    where = np.cumsum(length) - length  # of each word's first letter among the letters
    place = (np.arange(length.sum()) - np.repeat(where, length)) % PLACES
    hashes = np.add.reduceat(_TABLE[place * 256 + letters[is_letter]], where) if len(where) else where.view(np.uint64)
    return Words(hashes, np.searchsorted(first, starts - starts[0]))


def ngrams(found: Words, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-gram that begins at each word, uint64 (words,), and whether it is whole, bool (words,).

    The last n - 1 of a document are cut short by its end. A polynomial of the words' hashes modulo 2^64, from prefix
    sums, so its cost does not depend on n.
    """
    count = np.arange(len(found.hashes))
    end = np.minimum(count + n, np.repeat(found.starts[1:], np.diff(found.starts)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(found.hashes * _powers(_BASE, len(count)))])
    result = (sums[end] - sums[:-1]) * _powers(_INVERSE, len(count))
    result ^= result >> np.uint64(32)  # products modulo 2^64 leave the low bits weak
    result *= np.uint64(0x9E3779B97F4A7C15)
    return result, end - count == n


def _powers(base: int, length: int) -> np.ndarray:
    """base^0, base^1, ... modulo 2^64, uint64 (length,)."""
    factors = np.full(length, base, np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors)
