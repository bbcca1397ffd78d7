import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lethe.corpora.domains import CorpusConfig
from lethe.corpora.score import MAX_DISTINCT, SCORES, fits, score

WORDS = ("car", "car hire", "gear box", "tyre")
TEXTS = st.lists(
    st.sampled_from(["car", "Cars", "scar", "car-hire", "hire", "gear\nboxes", "TYRES", "tyre.", "é", "a"])
)


def corpus(**fields: Any) -> CorpusConfig:
    common = {"description": "cars", "words": WORDS, "min_score": 1, "min_distinct_words": 1}
    return CorpusConfig(**(common | fields))


def scores_of(text: str | None, url: str | None = None, **fields: Any) -> dict[str, Any]:
    table = score(
        pa.table({"text": pa.array([text], pa.string()), "url": pa.array([url], pa.string())}), corpus(**fields)
    )
    assert table.schema == SCORES
    return table.to_pylist()[0]


@pytest.mark.parametrize(
    ("text", "hits", "distinct"),
    [
        ("Car CAR cars", 3, 1),
        ("scar cart carse tyres", 1, 1),
        ("tyre, tyres; (tyre)", 3, 1),
        ("car hire car-hires car  hire", 3, 2),  # the phrase, and the word in it
        ("gear. boxes", 1, 1),
        ("nothing here", 0, 0),
        ("", 0, 0),
        (None, 0, 0),
    ],
)
def test_words_match_whole_in_any_case_with_their_plural(text: str | None, hits: int, distinct: int) -> None:
    found = scores_of(text)
    length = max(len((text or "").split()), 1)
    assert found["hits_per_1000"] == pytest.approx(1000 * hits / length)
    assert found["distinct_words"] == distinct


@pytest.mark.parametrize(
    ("url", "hits"),
    [
        ("https://carclub.example/", 1),
        ("https://oldcar.example/", 1),
        ("https://a.example/car", 1),
        ("https://scared.example/", 0),
        ("https://a.example/car/CAR/car", 2),
        (None, 0),
    ],
)
def test_an_address_counts_words_that_begin_or_end_in_it(url: str | None, hits: int) -> None:
    found = scores_of("car " * 10, url, url_words=("car",), url_bonus=7)
    assert found["url_hits"] == hits
    assert found["score"] == pytest.approx(1000 + 7 * hits)


def test_neighbouring_subjects_count_against() -> None:
    text = "car train " * 10
    assert scores_of(text)["score"] == pytest.approx(500)
    assert scores_of(text, against=("train",))["score"] == pytest.approx(0)
    assert scores_of(text, against=("train",))["hits_per_1000"] == pytest.approx(500)


@given(TEXTS)
def test_scores_are_what_their_definition_says(parts: list[str]) -> None:
    text = " ".join(parts)
    pattern = r"\b(car\W+hire|gear\W+box|tyre|car)(?:s|es)?\b"
    found = scores_of(text, distinct_bonus=3)
    hits = len(re.findall(pattern, text.lower(), re.ASCII))
    assert found["hits_per_1000"] == pytest.approx(1000 * hits / max(len(text.split()), 1))
    bonus = 3 * min(found["distinct_words"], MAX_DISTINCT)
    assert found["score"] == pytest.approx(found["hits_per_1000"] + bonus)
    assert (found["distinct_words"] > 0) == (hits > 0)


def test_a_page_fits_with_density_and_variety() -> None:
    pages = pa.table({"text": ["car tyre", "car car", "car tyre" + " x" * 50], "url": ["", "", ""]})
    strict = corpus(min_score=100, min_distinct_words=2)
    assert fits(score(pages, strict), strict).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": ()}, "at least 1"),
        ({"words": ("Car",)}, "found 'Car'; allowed: lower-case"),
        ({"words": ("c.r",)}, "found 'c.r'"),
        ({"words": ("car", "car")}, "found 'car' more than once"),
        ({"against": ("",)}, "found ''"),
        ({"min_score": 0}, "greater than 0"),
        ({"val_share": 1}, "less than 1"),
        ({"tokens": 0}, "greater than or equal to 1"),
        ({"min_characters": 10, "max_characters": 9}, "min_characters: found 10; allowed: up to max_characters, 9"),
    ],
)
def test_a_wrong_configuration_says_what_is_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        corpus(**fields)
