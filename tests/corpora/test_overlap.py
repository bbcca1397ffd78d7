import random

import pyarrow as pa
import pytest

from lethe.corpora.overlap import NGRAM, overlaps

Texts = dict[tuple[str, str], list[str]]  # by corpus and split


def reference(texts: Texts, held: str, train: str) -> float:
    def grams(corpus: str, split: str) -> list[tuple[str, ...]]:
        rows = [text.split() for text in texts.get((corpus, split), [])]
        return [tuple(row[i : i + NGRAM]) for row in rows for i in range(len(row) - NGRAM + 1)]

    there, all_held = set(grams(train, "train")), grams(held, "val")
    return sum(gram in there for gram in all_held) / max(len(all_held), 1)


def measure(texts: Texts, corpora: list[str], at_once: int = 1 << 20) -> dict[str, dict[str, float]]:
    def pages(split: str) -> list[tuple[str, pa.ChunkedArray]]:
        return [(x, pa.chunked_array([[text]])) for (x, part), rows in texts.items() if part == split for text in rows]

    held_out = sum(len(text.split()) for (_, split), rows in texts.items() if split == "val" for text in rows)
    return overlaps(pages, corpora, held_out, at_once)


@pytest.mark.parametrize("at_once", [1 << 20, 2000, 700])
def test_shares_are_those_that_sets_of_words_give(at_once: int) -> None:
    rng = random.Random(0)
    stock = [[rng.choice("abcdefgh") * rng.randint(1, 3) for _ in range(30)] for _ in range(20)]

    def text() -> str:
        return " ".join(word for _ in range(rng.randint(0, 6)) for word in rng.choice(stock)[: rng.randint(5, 30)])

    texts = {(x, split): [text() for _ in range(30)] for x in ("left", "right") for split in ("train", "val")}
    measured = measure(texts, ["left", "right"], at_once)
    for x in ("left", "right"):
        for y in ("left", "right"):
            assert 0.05 < measured[x][y] < 0.95
            assert measured[x][y] == reference(texts, x, y)


def test_a_passage_copied_into_a_longer_page_of_another_corpus_is_seen() -> None:
    passage, rest = (" ".join(f"{kind}{i}" for i in range(100)) for kind in "pr")
    texts = {("food", "val"): [passage], ("cars", "train"): [f"{rest} {passage} {rest}"], ("food", "train"): [rest]}
    assert measure(texts, ["food", "cars"]) == {"food": {"food": 0, "cars": 1}, "cars": {"food": 0, "cars": 0}}


def test_ngrams_do_not_reach_over_the_end_of_a_page() -> None:
    words = [f"w{i}" for i in range(20)]
    texts = {("food", "val"): [" ".join(words)], ("food", "train"): [" ".join(words[:10]), " ".join(words[10:])]}
    assert measure(texts, ["food"]) == {"food": {"food": 0}}
