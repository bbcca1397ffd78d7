import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lethe.corpora.domains import CorpusConfig
from lethe.corpora.score import JUDGED_BYTES, MAX_DISTINCT, SCORES, fits, score

WORDS = ("car", "car hire", "gear box", "tyre")
TEXTS = st.lists(
    st.sampled_from(["car", "Cars", "scar", "car-hire", "hire", "gear\nboxes", "TYRES", "tyre.", "é", "a"])
)


def corpus(**fields: Any) -> CorpusConfig:
    common = {"description": "cars", "words": WORDS, "min_score": 1, "min_distinct_words": 1}
    return CorpusConfig(**(common | fields))


def words_of(text: str | None) -> float:
    return max(len((text or "").encode()) / 6, 1)


def scores_of(text: str | None, url: str | None = None, **fields: Any) -> dict[str, Any]:
    pages = pa.table({"text": pa.array([text], pa.string()), "url": pa.array([url], pa.string())})
    (table,) = score(pages, [corpus(**fields)])
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
    assert found["hits_per_1000"] == pytest.approx(1000 * hits / words_of(text))
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
    found = scores_of("car   " * 10, url, url_words=("car",), url_bonus=7)
    assert found["url_hits"] == hits
    assert found["score"] == pytest.approx(1000 + 7 * hits)


def test_an_address_is_not_looked_at_where_it_can_decide_nothing() -> None:
    fields: dict[str, Any] = {"url_words": ("car",), "url_bonus": 7, "min_score": 520}
    assert scores_of("car   train " * 10, "https://a.example/car/car", **fields)["url_hits"] == 0
    assert scores_of("car   train " * 10, "https://a.example/car/car", **fields | {"min_score": 514})["url_hits"] == 2


def test_only_the_beginning_of_a_text_is_judged() -> None:
    beginning = "car   " * (JUDGED_BYTES // 6)
    assert scores_of(beginning + "tyre  " * 1000) == scores_of(beginning + "train " * 1000)


def test_neighbouring_subjects_count_against() -> None:
    text = "car   train " * 10
    assert scores_of(text)["score"] == pytest.approx(500)
    assert scores_of(text, against=("train",))["score"] == pytest.approx(0)
    assert scores_of(text, against=("train",))["hits_per_1000"] == pytest.approx(500)


@given(TEXTS)
def test_scores_are_what_their_definition_says(parts: list[str]) -> None:
    text = " ".join(parts)
    pattern = r"\b(car\W+hire|gear\W+box|tyre|car)(?:s|es)?\b"
    found = scores_of(text, distinct_bonus=3)
    hits = len(re.findall(pattern, text.lower(), re.ASCII))
    assert found["hits_per_1000"] == pytest.approx(1000 * hits / words_of(text))
    bonus = 3 * min(found["distinct_words"], MAX_DISTINCT)
    assert found["score"] == pytest.approx(found["hits_per_1000"] + bonus)
    assert (found["distinct_words"] > 0) == (hits > 0)


def test_a_page_fits_with_density_and_variety() -> None:
    pages = pa.table({"text": ["car tyre", "car car", "car tyre" + " x" * 100], "url": ["", "", ""]})
    strict = corpus(min_score=100, min_distinct_words=2)
    assert fits(score(pages, [strict])[0], strict).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": ()}, "at least 1"),
        ({"words": ("Car",)}, "found 'Car'; allowed: lower-case"),
        ({"words": ("c.r",)}, "found 'c.r'"),
        ({"words": ("car", "car")}, "found 'car' more than once"),
        ({"words": ("car", "a " + "o" * 23)}, "allowed: words of up to 22 letters"),
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
