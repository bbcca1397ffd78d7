import re

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lethe.corpora.ngrams import ngrams, words

SIGNS = r"\x00-/:-@\[-`{-\x7f\x80-\xbf\u2000-\u2fff"
TEXTS = st.lists(
    st.one_of(
        st.text(st.sampled_from("aBz09 _.,'—“”\u00a0é×漢\n"), max_size=40),
        st.text(max_size=20),
        st.just("x" * 200 + " " + "x" * 136 + "y"),
    ),
    max_size=8,
)


def reference(text: str) -> list[str]:
    return [word for word in re.split(f"[{SIGNS}]+", pa.compute.utf8_lower(text).as_py()) if word]


@given(TEXTS)
def test_equal_words_have_equal_hashes_and_no_others(texts: list[str]) -> None:
    hashes, starts = words(pa.array(texts, pa.string()))
    expected = [word for text in texts for word in reference(text)]
    assert np.diff(starts).tolist() == [len(reference(text)) for text in texts]
    pairs = set(zip(expected, hashes.tolist(), strict=True))
    assert len(pairs) == len(set(expected)) == len(set(hashes.tolist()))


@given(st.lists(st.text("ab ", max_size=40), max_size=5), st.integers(1, 13))
def test_equal_ngrams_have_equal_hashes_and_no_others(texts: list[str], n: int) -> None:
    hashes, whole = ngrams(words(pa.array(texts, pa.string())), n)
    by_text = [text.split() for text in texts]
    expected = [tuple(row[i : i + n]) for row in by_text for i in range(len(row))]
    assert whole.tolist() == [len(gram) == n for gram in expected]
    pairs = set(zip(expected, hashes.tolist(), strict=True))
    assert len(pairs) == len(set(expected)) == len(set(hashes.tolist()))


def test_a_slice_of_a_chunked_column_gives_the_same() -> None:
    column = pa.chunked_array([["left out", "one two"], ["three", "four five six", "left out"]])
    hashes, starts = words(column.slice(1, 3))
    again = words(pa.array(["one two", "three", "four five six"]))
    assert hashes.tolist() == again.hashes.tolist()
    assert starts.tolist() == again.starts.tolist() == [0, 2, 3, 6]


def test_hashes_are_the_same_in_every_process_and_version() -> None:
    found = words(pa.array(["Bread, and butter!"]))
    assert found.hashes.tolist() == [7970725811478508651, 11034314859638942106, 1522224390261454143]
    assert ngrams(found, 2)[0].tolist() == [2830155501298297714, 2633361634950437350, 16781426804863709911]
