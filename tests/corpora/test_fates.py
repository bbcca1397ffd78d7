import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.fates import Fates, decide, fit
from lethe.corpora.near import signatures
from lethe.corpora.select import text_hash

PAGES = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 50)), min_size=1, max_size=60)


@given(PAGES, st.sampled_from([None, 0.1, 0.25, 0.5, 1.0]), st.sampled_from([None, 1, 40, 400, 10_000]))
def test_neither_a_host_nor_the_corpus_gets_more_than_its_limit(
    pages: list[tuple[int, int]], share: float | None, budget: int | None
) -> None:
    hosts, tokens = np.array(pages).T
    capped, over = fit(hosts, tokens, share, budget)
    inside = ~capped & ~over
    assert not (capped & over).any()
    assert tokens[inside].sum() <= (budget or np.inf)
    for host in set(hosts):
        mine = hosts == host
        assert tokens[mine & inside].sum() <= (share or 1) * tokens[inside].sum()
        assert not (np.diff(inside[mine].astype(int)) > 0).any()  # the preferred pages of a host stay
    if share is None:
        assert not capped.any()
        assert inside.tolist() == (np.cumsum(tokens) <= (budget or np.inf)).tolist()


def test_a_cap_leaves_a_host_as_much_as_its_share_of_what_remains() -> None:
    """One host of 1,000 pages and 90 of one page, all of one token: at a tenth 10 pages of 100 remain to the first."""
    hosts = np.concatenate([np.zeros(1000, int), np.arange(1, 91)])
    capped, over = fit(hosts, np.ones(1090, int), 0.1, None)
    assert not over.any()
    assert np.flatnonzero(capped).tolist() == list(range(10, 1000))


WORDS = [f"word{i}" for i in range(3000)]
CORPORA = {
    name: CorpusConfig(description="d", words=("word",), min_score=1, val_share=0.2) for name in ("food", "cars")
}


def text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=200))


def near_copy(page: str, rng: random.Random) -> str:
    words = page.split()
    words[rng.randrange(200)] = rng.choice(WORDS)
    return " ".join(words)


def judge(pages: list[dict[str, Any]], corpora: dict[str, CorpusConfig] = CORPORA) -> Fates:
    index = pa.table(
        {
            "corpus": [page["corpus"] for page in pages],
            "host": [page["host"] for page in pages],
            "text_hash": [text_hash(page["text"]) for page in pages],
            "token_count": [200] * len(pages),
            "score": [page["score"] for page in pages],
            "page_hash": pa.array([page["hash"] for page in pages], pa.uint64()),
        }
    )
    return decide(index, signatures(pa.array([page["text"] for page in pages])), corpora)


@pytest.fixture
def pages() -> list[dict[str, Any]]:
    """Pages of two corpora; of the first 40 an exact copy, and of the next 40 a near copy, in one corpus or the other.

    A third of the pages lie on one host.
    """
    rng = random.Random(0)
    texts = [text(rng) for _ in range(200)]
    texts += [page.upper() for page in texts[:40]] + [near_copy(page, rng) for page in texts[40:80]]
    return [
        {
            "corpus": rng.choice(["food", "cars"]),
            "host": "big.example" if i % 3 == 0 else f"{i}.example",
            "text": page,
            "score": rng.choice([10.0, 20.0, 30.0]),
            "hash": rng.getrandbits(64),
        }
        for i, page in enumerate(texts)
    ]


def test_of_each_pair_of_copies_the_better_stays_whatever_its_corpus(pages: list[dict[str, Any]]) -> None:
    fates, _, clusters = judge(pages)
    assert clusters == {"clusters": 40, "pages": 80}
    for first, second, reason in [(i, 200 + i, "duplicate" if i < 40 else "near_duplicate") for i in range(80)]:
        pair = sorted((first, second), key=lambda i: (-pages[i]["score"], pages[i]["hash"]))
        assert fates[pair[0]] in ("train", "val")
        assert fates[pair[1]] == reason
    assert set(fates[80:200]) == {"train", "val"}


@pytest.mark.parametrize("limits", [{}, {"tokens": 10_000}, {"max_host_share": 0.1}])
def test_the_order_of_pages_changes_nothing(pages: list[dict[str, Any]], limits: dict[str, Any]) -> None:
    corpora = {name: corpus.model_copy(update=limits) for name, corpus in CORPORA.items()}
    fates, kinds, clusters = judge(pages, corpora)
    order = random.Random(1).sample(range(len(pages)), len(pages))
    again = judge([pages[i] for i in order], dict(reversed(corpora.items())))
    assert again.fates.tolist() == fates[order].tolist()
    assert again[1:] == (kinds, clusters)
    assert ("over_budget" in fates) == ("tokens" in limits)
    assert ("host_share" in fates) == ("max_host_share" in limits)


def test_what_stays_of_a_cluster_stays_in_one_corpus() -> None:
    """The middle page is near both others, which are not near each other; the best of all three lies in food."""
    rng = random.Random(2)
    middle = text(rng).split()
    left, right = ([*rng.choices(WORDS, k=20), *middle[20:]], [*middle[:180], *rng.choices(WORDS, k=20)])
    others = [{"text": text(rng), "corpus": ("food", "cars")[i % 2], "score": 5.0} for i in range(40)]
    rows = [
        {"text": " ".join(left), "corpus": "food", "score": 30.0},
        {"text": " ".join(middle), "corpus": "food", "score": 10.0},
        {"text": " ".join(right), "corpus": "cars", "score": 20.0},
        *others,
    ]
    pages = [row | {"host": f"{i}.example", "hash": i} for i, row in enumerate(rows)]
    fates, _, clusters = judge(pages)
    assert fates[0] in ("train", "val")
    assert fates[1:3].tolist() == ["near_duplicate"] * 2
    assert clusters == {"clusters": 1, "pages": 3}
    both = judge([page | {"corpus": "food" if i < 3 else page["corpus"]} for i, page in enumerate(pages)])
    assert both.fates[1] == "near_duplicate"
    assert both.fates[0] == both.fates[2]


def test_a_cap_that_too_few_hosts_can_meet_is_refused(pages: list[dict[str, Any]]) -> None:
    corpora = {name: corpus.model_copy(update={"max_host_share": 0.001}) for name, corpus in CORPORA.items()}
    with pytest.raises(UserError, match=r"corpus food: max_host_share: found 0.001, .* pages of \d+ hosts; allowed"):
        judge(pages, corpora)
