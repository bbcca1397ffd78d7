"""How much a page belongs to a domain: the evidence of its text and of its address.

Density of a domain's words with a minimum of different ones, helped by the address, finds on real pages what a small
trained classifier finds. Arrow's kernels look at every page; Python only at those that can still pass.
"""

import re
from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lethe.corpora.domains import CorpusConfig

SCORES = pa.schema(
    [
        ("score", pa.float64()),
        ("hits_per_1000", pa.float64()),
        ("distinct_words", pa.int64()),
        ("url_hits", pa.int64()),
    ]
)
MAX_DISTINCT = 10
MAX_URL_HITS = 2  # a third word in an address says nothing new about the page


def score(pages: pa.Table, corpus: CorpusConfig) -> pa.Table:
    """The scores of pages (columns text and url, valid UTF-8; null counts as empty): schema SCORES, row for row.

    hits_per_1000   hits of `words` for each 1000 words of the text
    distinct_words  how many of `words` stand in the text; 0 where the page cannot reach `min_score` any more
    url_hits        hits of `url_words` in the address, at most 2
    score           hits_per_1000, less the hits of `against` for each 1000 words,
                    + distinct_bonus * min(distinct_words, 10) + url_bonus * url_hits
    """
    text = pc.fill_null(pages["text"], "")
    hits = pc.count_substring_regex(text, _word_pattern(corpus.words)).to_numpy()
    url_hits = np.zeros(len(hits), np.int64)
    if corpus.url_words:
        found = pc.count_substring_regex(pc.fill_null(pages["url"], ""), _url_pattern(corpus.url_words))
        url_hits = np.minimum(found.to_numpy(), MAX_URL_HITS)
    per_1000, result, distinct = (np.zeros(len(hits)), np.zeros(len(hits)), np.zeros(len(hits), np.int64))
    some = np.flatnonzero(hits >= corpus.min_distinct_words)
    near = text.take(some)
    length = np.maximum(pc.count_substring_regex(near, r"\S+").to_numpy(), 1)
    per_1000[some] = 1000 * hits[some] / length
    against = _count(near, corpus.against)
    result[some] = 1000 * (hits[some] - against) / length + corpus.url_bonus * url_hits[some]
    possible = some[result[some] + corpus.distinct_bonus * MAX_DISTINCT >= corpus.min_score]
    for row, page in zip(possible, text.take(possible).to_pylist(), strict=True):
        distinct[row] = _distinct_words(page, corpus.words)
    result += corpus.distinct_bonus * np.minimum(distinct, MAX_DISTINCT)
    return pa.table([result, per_1000, distinct, url_hits], SCORES)


def fits(scores: pa.Table, corpus: CorpusConfig) -> np.ndarray:
    """Which rows of `scores` belong to the domain, bool (rows,)."""
    enough = scores["distinct_words"].to_numpy() >= corpus.min_distinct_words
    return enough & (scores["score"].to_numpy() >= corpus.min_score)


def _count(text: pa.ChunkedArray, words: tuple[str, ...]) -> np.ndarray:
    return pc.count_substring_regex(text, _word_pattern(words)).to_numpy() if words else np.zeros(len(text), np.int64)


@lru_cache
def _word_pattern(words: tuple[str, ...]) -> str:
    # The longest first: a phrase must not be cut short by its own first word.
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return r"(?i)\b(?:" + "|".join(word.replace(" ", r"\W+") for word in longest_first) + r")(?:s|es)?\b"


@lru_cache
def _url_pattern(words: tuple[str, ...]) -> str:
    either = "|".join(word.replace(" ", "[^a-z0-9]?") for word in words)
    return rf"(?i)(?:[^a-z](?:{either})|(?:{either})(?:[^a-z]|$))"


class _Forms(NamedTuple):
    single: dict[str, str]  # form -> word
    phrases: dict[str, list[tuple[str, str]]]  # a phrase's first word -> its (form, phrase)


@lru_cache
def _forms(words: tuple[str, ...]) -> _Forms:
    result = _Forms({}, defaultdict(list))
    for word in words:
        first, more, _ = word.partition(" ")
        for form in (word, word + "s", word + "es"):
            if more:
                result.phrases[first].append((form, word))
            else:
                result.single[form] = word
    return result


def _distinct_words(text: str, words: tuple[str, ...]) -> int:
    forms = _forms(words)
    tokens = re.findall(r"[a-z0-9_]+", text.lower())
    there, joined = set(tokens), f" {' '.join(tokens)} "
    found = {forms.single[token] for token in there & forms.single.keys()}
    for first in there & forms.phrases.keys():
        found.update(phrase for form, phrase in forms.phrases[first] if f" {form} " in joined)
    return len(found)
