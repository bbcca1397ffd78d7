"""How much of what is held out stands among the training pages: the share of val's word 13-grams found in train.

13 words as in the contamination study of Brown et al. (2020), appendix C. Exact but for chance collisions of 64-bit
hashes: with 100 million of them one n-gram in 2e11 is taken for another.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from lethe.corpora.ngrams import ngrams, words

NGRAM = 13  # words
AT_ONCE = 1 << 26  # held-out n-grams in memory: up to 2 GB while they are sorted

Pages = Callable[[str], Iterable[tuple[str, pa.ChunkedArray]]]  # of a split: corpus, texts (valid UTF-8, no null)


def overlaps(
    pages: Pages, corpora: Sequence[str], held_out: int, at_once: int = AT_ONCE
) -> dict[str, dict[str, float]]:
    """`[x][y]`: the share of the 13-grams of x's val that stand in y's train, each as often as it occurs in val.

    `pages` is called twice a pass, with "val" and with "train". Where val has more than `at_once` words (`held_out`,
    about), there are several passes, each over a part of all hashes. A val without a 13-gram has no overlap.
    """
    found = {x: dict.fromkeys(corpora, 0) for x in corpora}
    total = dict.fromkeys(corpora, 0)
    parts = 1 + held_out // at_once
    for part in range(parts):
        held = _held_out(pages, corpora, part, parts)
        for y, texts in pages("train"):
            grams = _grams(texts, part, parts)
            for one in held.values():
                one.mark(y, grams)
        for x, one in held.items():
            total[x] += int(one.counts.sum())
            for y, marked in one.marked.items():
                found[x][y] += int(one.counts[marked].sum())
    return {x: {y: found[x][y] / max(total[x], 1) for y in corpora} for x in corpora}


class _HeldOut:
    """The n-grams of a corpus's val, sorted; how often each occurs; and which of them were found in whose train."""

    def __init__(self, grams: np.ndarray, corpora: Sequence[str]) -> None:
        self.grams, self.counts = np.unique(grams, return_counts=True)
        self.marked = {y: np.zeros(len(self.grams), bool) for y in corpora}
        # Most n-grams of train are not here: a table over the first bits tells, without a search.
        self.shift = np.uint64(64 - (len(self.grams).bit_length() + 3))
        self.there = np.zeros(8 << len(self.grams).bit_length(), bool)
        self.there[self.grams >> self.shift] = True

    def mark(self, corpus: str, grams: np.ndarray) -> None:
        likely = grams[self.there[grams >> self.shift]]
        place = np.minimum(np.searchsorted(self.grams, likely), len(self.grams) - 1)
        self.marked[corpus][place[self.grams[place] == likely]] = True


def _held_out(pages: Pages, corpora: Sequence[str], part: int, parts: int) -> dict[str, _HeldOut]:
    grams: dict[str, list[np.ndarray]] = {x: [np.zeros(0, np.uint64)] for x in corpora}
    for x, texts in pages("val"):
        grams[x].append(_grams(texts, part, parts))
    return {x: _HeldOut(np.concatenate(grams.pop(x)), corpora) for x in corpora}


def _grams(texts: pa.ChunkedArray, part: int, parts: int) -> np.ndarray:
    """The whole 13-grams of texts, of which a part of all hashes is looked at: uint64 (n-grams,)."""
    grams, whole = ngrams(words(texts), NGRAM)
    return grams[whole & (grams % np.uint64(parts) == part)]
