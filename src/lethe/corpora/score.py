"""How much a page belongs to a domain: the evidence of its text and of its address.

Density of a domain's words with a minimum of different ones, helped by the address, finds on real pages what a small
trained classifier finds.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lethe.corpora.domains import CorpusConfig
from lethe.corpora.words import WordLists

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
JUDGED_BYTES = 5000  # of a text, from its beginning; on real pages more decide nothing else
WORD_BYTES = 6  # of a word of English on the web and the space after it: what length is measured in


def score(pages: pa.Table, corpora: Sequence[CorpusConfig]) -> list[pa.Table]:
    """The scores of pages (columns text and url; null counts as empty) for each domain: schema SCORES, row for row.

    hits_per_1000   hits of `words` for each 1000 words of the text (6 bytes each) in its first 5,000 bytes
    distinct_words  how many of `words` stand there
    url_hits        hits of `url_words` in the address, at most 2; 0 where no hits could raise the score to the `floor`
    score           hits_per_1000, less the hits of `against` for each 1000 words,
                    + distinct_bonus * min(distinct_words, 10) + url_bonus * url_hits
    """
    judged = np.minimum(pc.fill_null(pc.binary_length(pages["text"]), 0).to_numpy(), JUDGED_BYTES)
    thousands = np.maximum(judged / WORD_BYTES, 1) / 1000
    lists = _word_lists(tuple(words for corpus in corpora for words in (corpus.words, corpus.against)))
    counts = lists.count(pages["text"], JUDGED_BYTES)
    result = []
    for number, corpus in enumerate(corpora):
        hits, against = counts.hits[2 * number : 2 * number + 2]
        distinct = counts.distinct[2 * number]
        total = (hits - against) / thousands + corpus.distinct_bonus * np.minimum(distinct, MAX_DISTINCT)
        url_hits = _url_hits(pages["url"], total, corpus)
        result.append(pa.table([total + corpus.url_bonus * url_hits, hits / thousands, distinct, url_hits], SCORES))
    return result


def fits(scores: pa.Table, corpus: CorpusConfig) -> np.ndarray:
    """Which rows of `scores` a scan keeps for the domain, bool (rows,)."""
    enough = scores["distinct_words"].to_numpy() >= corpus.fewest_words
    return enough & (scores["score"].to_numpy() >= corpus.floor)


def _url_hits(urls: pa.ChunkedArray, total: np.ndarray, corpus: CorpusConfig) -> np.ndarray:
    result = np.zeros(len(total), np.int64)
    if corpus.url_words:
        some = np.flatnonzero(total + MAX_URL_HITS * corpus.url_bonus >= corpus.floor)
        near = pc.fill_null(urls.take(pa.array(some)), "")
        result[some] = pc.count_substring_regex(near, _url_pattern(corpus.url_words)).to_numpy()
    return np.minimum(result, MAX_URL_HITS)


@lru_cache
def _word_lists(lists: tuple[tuple[str, ...], ...]) -> WordLists:
    return WordLists(lists)


@lru_cache
def _url_pattern(words: tuple[str, ...]) -> str:
    either = "|".join(word.replace(" ", "[^a-z0-9]?") for word in words)
    return rf"(?i)(?:[^a-z](?:{either})|(?:{either})(?:[^a-z]|$))"
