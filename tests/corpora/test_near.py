import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lethe.corpora.near import BANDS, MINIMA, SHINGLE, SIMILAR, near_duplicates, signatures

VOCABULARY = [f"word{i}" for i in range(5000)]


def shingles(text: str) -> set[tuple[str, ...]]:
    """At each word the five that begin there, fewer at the end."""
    words = re.findall("[a-z0-9]+", text.lower())
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words))}


def jaccard(left: str, right: str) -> float:
    one, other = shingles(left), shingles(right)
    return len(one & other) / len(one | other)


def edited(text: str, least: float, rng: random.Random) -> str:
    """The text with words replaced, as many as leave its similarity at `least` or more."""
    parts = re.split("([A-Za-z0-9]+)", text)
    for place in rng.sample(range(1, len(parts), 2), len(parts) // 2):
        old, parts[place] = parts[place], rng.choice(VOCABULARY)
        if jaccard(text, "".join(parts)) < least:
            parts[place] = old
            break
    return "".join(parts)


def written(count: int, rng: random.Random) -> list[str]:
    return [" ".join(rng.choices(VOCABULARY, k=rng.randint(60, 500))) for _ in range(count)]


def dropped(texts: list[str], copies: list[str], rng: random.Random) -> int:
    """How many of the pairs of a text and its copy lose one, where all lie together in some order of preference."""
    order = np.array(rng.sample(range(len(texts) + len(copies)), len(texts) + len(copies)))
    near = near_duplicates(signatures(pa.array([*texts, *copies])), order)
    original, copy = near.kept[: len(copies)], near.kept[len(texts) :]
    return int((~(original & copy)).sum())


@pytest.fixture(scope="module")
def sample_texts(sample_storage: Path) -> list[str]:
    paths = sorted((sample_storage / "data" / "sample").glob("*.parquet"))
    texts = pa.concat_tables([pq.read_table(path, columns=["text"]) for path in paths])["text"].to_pylist()
    return [text for text in texts if text and len(text) < 100_000 and text.isascii()]


def test_every_one_of_500_near_duplicates_planted_in_the_sample_is_found(sample_texts: list[str]) -> None:
    rng = random.Random(0)
    texts = [text for text in rng.sample(sample_texts, len(sample_texts)) if len(shingles(text)) >= 40]
    copies = [edited(text, 0.9, rng) for text in texts[:500]]
    similar = [jaccard(text, copy) for text, copy in zip(texts, copies, strict=False)]
    assert min(similar) >= 0.9
    assert max(similar) < 1
    assert len(copies) == dropped(texts, copies, rng) == 500


def test_pages_that_share_half_of_their_shingles_stay() -> None:
    rng = random.Random(1)
    texts = written(300, rng)
    copies = [edited(text, 0.5, rng) for text in texts]
    assert 0.5 <= np.mean([jaccard(text, copy) for text, copy in zip(texts, copies, strict=True)]) < 0.55
    assert dropped(texts, copies, rng) == 0


def test_few_pages_just_below_the_bound_are_dropped() -> None:
    """By the docstring's table 4 % at 0.7."""
    rng = random.Random(2)
    texts = written(300, rng)
    copies = [edited(text, 0.7, rng) for text in texts]
    assert dropped(texts, copies, rng) <= 30


def test_the_share_of_equal_minima_estimates_the_similarity() -> None:
    rng = random.Random(3)
    texts = written(400, rng)
    copies = [edited(text, rng.uniform(0.3, 1), rng) for text in texts]
    equal = (signatures(pa.array(texts)) == signatures(pa.array(copies))).mean(1)
    errors = equal - [jaccard(text, copy) for text, copy in zip(texts, copies, strict=True)]
    assert abs(errors.mean()) < 0.005
    assert errors.std() < np.sqrt(0.25 / MINIMA)


@pytest.fixture(scope="module")
def families() -> np.ndarray:
    """Signatures of 40 families of 12 pages, whose members are edited from one another again and again."""
    rng, texts = random.Random(4), []
    for text in written(40, rng):
        texts.append(text)
        texts += [text := edited(rng.choice([text, texts[-1]]), rng.choice([0.6, 0.8, 0.95]), rng) for _ in range(11)]
    return signatures(pa.array(texts))


def test_no_two_that_stay_are_near_and_each_that_goes_has_a_near_one_that_stays(families: np.ndarray) -> None:
    order = np.random.RandomState(0).permutation(len(families))
    near = near_duplicates(families, order)
    rank = np.argsort(order)
    similar = (families[:, None] == families).mean(2) >= SIMILAR
    band = (families[:, None] == families).reshape(len(families), len(families), BANDS, -1).all(3).any(2)
    linked = similar & band
    assert not linked[np.ix_(near.kept, near.kept)][~np.eye(near.kept.sum(), dtype=bool)].any()
    for document in np.flatnonzero(~near.kept):
        others = np.flatnonzero(linked[document] & near.kept)
        assert rank[others].min() < rank[document]
        assert (near.cluster[others] == near.cluster[document]).all()
    assert 40 <= near.kept.sum() < len(families) / 2
    assert rank[near.cluster].tolist() == [rank[near.cluster == root].min() for root in near.cluster]


def test_the_order_of_documents_changes_nothing(families: np.ndarray) -> None:
    rng = np.random.RandomState(1)
    order, moved = rng.permutation(len(families)), rng.permutation(len(families))
    near = near_duplicates(families, order)
    again = near_duplicates(families[moved], np.argsort(moved)[order])
    assert again.kept.tolist() == near.kept[moved].tolist()
    assert moved[again.cluster].tolist() == near.cluster[moved].tolist()


def test_documents_left_out_of_the_order_neither_stay_nor_count() -> None:
    signed = signatures(pa.array(["the first text of this test"] * 3 + ["another text, unlike those before it"]))
    near = near_duplicates(signed, np.array([2, 3, 1]))
    assert near.kept.tolist() == [False, False, True, True]
    assert near.cluster.tolist() == [0, 2, 2, 3]


def test_texts_without_words_or_shorter_than_a_shingle_can_be_signed() -> None:
    signed = signatures(pa.array(["", "...", "two words", "Two words!", "two others"]))
    assert near_duplicates(signed, np.arange(5)).kept.tolist() == [True, False, True, False, True]
    assert signatures(pa.array([], pa.string())).shape == (0, MINIMA)


def test_signatures_are_the_same_in_every_process_and_version_of_the_library() -> None:
    """Where this fails, lethe.corpora.extract.VERSION must be counted up."""
    signed = signatures(pa.array(["Bread, and butter, and a cup of tea."]))
    assert signed[0, :6].tolist() == [38304, 21289, 6444, 62663, 60128, 312]
