"""What counts as common to corpora, what is asked of it, and that the items favour none of them."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lethe.evaluation.mine import VERSION
from lethe.evaluation.neutral import ALIKE, FEWEST, neutral_items, runs, shared_words, words_of
from lethe.files import fingerprint
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import load_tokenizer

OWN = {"food": ["soup", "flour", "oven"], "automotive": ["brake", "clutch", "piston"]}
_TEXT = (
    "nobody knew whether they should answer because every letter came after winter while some friends waited near "
    "another window until morning before going back home again without saying much about what happened there"
)
GLUE = _TEXT.split()


def page(corpus: str, number: int) -> str:
    """Sentences of glue, broken here and there by a word of the corpus's own."""
    rng = random.Random(f"{corpus}/{number}")
    words = (rng.choice(OWN[corpus] if rng.random() < 0.1 else GLUE) for _ in range(200))
    sentences = [[next(words) for _ in range(20)] for _ in range(10)]
    return " ".join(f"Then {' '.join(sentence)}." for sentence in sentences)


def pages(first: int, count: int) -> dict[str, list[str]]:
    return {corpus: [page(corpus, number) for number in range(first, first + count)] for corpus in OWN}


@pytest.fixture(scope="module")
def tokenizer(toy_tokens: TokenData) -> Tokenizer:
    return load_tokenizer(toy_tokens.tokenizer_path)


def test_a_word_is_shared_where_its_shares_are_alike():
    a = Counter({"the": 600, "often": 60, "rarely": FEWEST - 1, "soup": 300, "filler": 21})
    b = Counter({"the": 100, "often": FEWEST, "rarely": 100, "brake": 300, "filler": 480})
    assert (a.total(), b.total()) == (1000, 1000)
    assert ALIKE == 3
    assert shared_words([a, b]) == {"often": 80}  # the others: 6 times, too few, not there, and 23 times as often
    assert shared_words([a, Counter({word: 7 * count for word, count in a.items()})]).keys() == a.keys() - {"rarely"}


def test_runs_are_broken_by_words_of_one_corpus_and_by_marks():
    shared = dict.fromkeys(words_of("they said that it was often very late in the winter and so we left don't"), 50)
    text = "They said that it was often very late. So it was said that the soup in winter was late, and so we left it."
    found = [(run.prompt, run.answer) for run in runs(f"{text}\nSo we left it in the winter and WE don't", shared)]
    assert found == [
        ("They said that it was often", "very"),
        ("So we left it in the winter", "and"),
    ]  # no run is long enough after "soup", and none goes over a comma


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(0, 30), st.integers(5, 12))
def test_items_are_fair_and_favour_no_corpus(tokenizer: Tokenizer, first: int, each: int, count: int):
    train, val = pages(first, 30), pages(first + 30, count)
    val["food"].append(train["food"][0])
    items = neutral_items(train, val, tokenizer, each)
    assert 2 * min(each // 2, 3) <= len(items) <= each
    assert len(items) % 2 == 0
    assert len({item.answer for item in items}) == len({item.id for item in items}) == len(items)
    counts = Counter(word for group in train.values() for text in group for word in words_of(text))
    for i, item in enumerate(items):
        assert (item.corpus, item.type, item.form) == ("neutral", "word", "held_out")
        origin = list(OWN)[i % 2]
        asked = f"{item.prompt} {item.answer}"
        sentences = [one for text in val[origin] for one in text.split(".") if asked in one]
        assert any(one not in "".join(train["food"] + train["automotive"]) for one in sentences)
        four = (item.answer, *item.distractors)
        assert set(four) <= {*GLUE, "then"}
        assert set(words_of(item.prompt)) <= {*GLUE, "then"}
        assert len(set(four)) == 4
        lengths = [len(tokenizer.encode(f" {choice}").ids) for choice in four]
        assert max(abs(length - lengths[0]) for length in lengths) <= 1
        assert all(counts[item.answer] / 4 <= counts[other] <= 4 * counts[item.answer] for other in item.distractors)
        assert any(not set(item.distractors) & set(words_of(one)) for one in sentences)
    assert items == neutral_items(train, val, tokenizer, each)


def test_none_is_neutral_beside_one_corpus_or_where_nothing_is_shared(tokenizer: Tokenizer):
    train, val = pages(0, 30), pages(30, 5)
    assert not neutral_items({"food": train["food"]}, {"food": val["food"]}, tokenizer, 10)
    alone = {name: [" ".join(words * 40)] for name, words in OWN.items()}
    assert not neutral_items(alone, alone, tokenizer, 10)


def test_the_same_pages_give_the_items_that_belong_to_the_version(tokenizer: Tokenizer):
    """Another hash means other items: raise VERSION, so that no grid mixes the two."""
    items = neutral_items(pages(0, 30), pages(30, 5), tokenizer, 10)
    assert (VERSION, fingerprint([item.model_dump() for item in items])) == (2, "204b03a7ddcdf4ae")
