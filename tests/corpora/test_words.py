"""Counting words, against patterns of Python's own."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.corpora import words as module
from lethe.corpora.domains import load_corpus_config
from lethe.corpora.words import WordLists

LISTS = (
    ("car", "car hire", "gear box", "oz", "tyre", "v8", "box", "hire firm of cars", "x"),
    ("cooking", "car", "extraordinarily long", "refrigeration"),
    (),
)
PIECES = ["car", "Cars", "scar", "car-hire", "hire", "firm", "of", "gear\nboxes", "TYRES", "tyre.", "é", "ö", "a", "oz"]
PIECES += ["OZes", "v8", "V8s", "v88", "x", "cooking", "cookingly", "extraordinarily", "long", "extraordinarily-longs"]
PIECES += ["refrigerations", "refrigerationist", "a_car", "\x00", "🚗", "car\u00a0hire"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join)


def expected(text: str, words: tuple[str, ...], first: int) -> tuple[int, int]:
    """Hits and distinct words, as patterns find them."""
    beginning = text.encode()[:first].decode("latin-1")
    longest_first = sorted(words, key=lambda word: (-len(word.split()), word))
    if not words:
        return 0, 0
    one_of = "|".join(word.replace(" ", r"\W+") for word in longest_first)
    found = re.findall(rf"\b(?:{one_of})(?:s|es)?\b", beginning, re.ASCII | re.IGNORECASE)
    forms = {word + end: word for word in reversed(words) for end in ("es", "s", "")}  # of two, the first listed
    there = {re.sub(r"\W+", " ", match.lower(), flags=re.ASCII) for match in found}
    there |= set(re.findall(r"\w+", beginning.lower(), re.ASCII)) & forms.keys()
    return len(found), len({forms[form] for form in there})


def check(texts: list[str | None], lists: tuple[tuple[str, ...], ...], first: int) -> None:
    counts = WordLists(lists).count(pa.chunked_array([texts[:1], texts[1:]], pa.string()), first)
    for number, words in enumerate(lists):
        found = list(zip(counts.hits[number].tolist(), counts.distinct[number].tolist(), strict=True))
        assert found == [expected(text or "", words, first) for text in texts]


@given(st.lists(TEXTS | st.none(), min_size=1, max_size=8), st.sampled_from([7, 50, 10_000]))
def test_words_are_counted_as_a_pattern_counts_them(texts: list[str | None], first: int) -> None:
    check(texts, LISTS, first)


@given(st.lists(st.text(st.sampled_from("carOZ _-\n8é"), max_size=60), min_size=1, max_size=5))
def test_whatever_the_text(texts: list[str | None]) -> None:
    check(texts, LISTS, 10_000)


def test_the_words_of_the_domains_in_any_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 3000)  # several blocks, and texts longer than one
    rng, glue = np.random.default_rng(0), ["the", "of", "carport", "cook's", "sugary"]
    lists = tuple(load_corpus_config(name).words for name in ("food", "automotive"))
    vocabulary = [*lists[0], *lists[1], *glue * 50]
    texts: list[str | None] = [
        " ".join(rng.choice(vocabulary, size=size)) + rng.choice(["", ".", "s", "es"])
        for size in (0, 1, 5, 700, 90, 300)
    ]
    check(texts, lists, 4000)


def test_a_slice_of_texts_is_counted_alone() -> None:
    texts = pa.chunked_array([["car", "tyre tyre", None, "box", "car"]], pa.string())
    assert WordLists(LISTS).count(texts.slice(1, 3), 100).hits[0].tolist() == [2, 0, 1]
    assert WordLists(LISTS).count(texts.slice(0, 0), 100).hits.shape == (3, 0)
