import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lethe.corpora.split import ENOUGH, Split, split

DOCUMENTS = st.lists(
    st.tuples(st.sampled_from([None, *"abcdefgh"]), st.integers(0, 40), st.integers(1, 1000)), min_size=1, max_size=60
)
SHARES = st.sampled_from([0.05, 0.2, 0.5])


def divide(documents: list[tuple[str | None, int, int]], share: float) -> Split:
    hosts, clusters, tokens = zip(*documents, strict=True)
    return split(pa.array(hosts, pa.string()), pa.array(map(str, clusters), pa.string()), np.array(tokens), share)


@given(DOCUMENTS, SHARES)
def test_the_held_out_share_is_whole_and_never_exceeded(
    documents: list[tuple[str | None, int, int]], share: float
) -> None:
    val, kind = divide(documents, share)
    tokens = np.array([tokens for _, _, tokens in documents])
    assert tokens[val].sum() <= share * tokens.sum()
    place = {"host": 0, "cluster": 1}[kind]
    held = {d[place] for d, out in zip(documents, val, strict=True) if out and d[0]}
    kept = {d[place] for d, out in zip(documents, val, strict=True) if not out and d[0]}
    clusters = np.array([cluster for _, cluster, _ in documents])
    assert not set(clusters[val]) & set(clusters[~val])
    if kind == "host":
        assert tokens[val].sum() >= ENOUGH * share * tokens.sum()
        assert not held & kept


@given(DOCUMENTS, SHARES, st.randoms(use_true_random=False))
def test_the_order_of_documents_changes_nothing(documents: list, share: float, random: object) -> None:
    order = list(range(len(documents)))
    random.shuffle(order)
    val, kind = divide(documents, share)
    shuffled, again = divide([documents[i] for i in order], share)
    assert again == kind
    assert shuffled.tolist() == [val[i] for i in order]


def test_one_big_host_is_split_by_cluster() -> None:
    documents = [("big.example", i // 2, 10) for i in range(200)] + [("small.example", 1000, 10)]
    val, kind = divide(documents, 0.1)
    assert kind == "cluster"
    assert 0.8 * 0.1 <= val.mean() <= 0.1
    assert val[:200:2].tolist() == val[1:200:2].tolist()


def test_hosts_that_share_a_cluster_are_held_out_together() -> None:
    documents = [(f"site{i}.example", i // 3, 10) for i in range(60)]
    documents += [(f"site{i}.example", 100 + i, 10) for i in range(60)]
    val, kind = divide(documents, 0.2)
    assert kind == "host"
    assert 0.16 <= val.mean() <= 0.2
    assert val[:60].tolist() == val[60:].tolist() == np.repeat(val[:60:3], 3).tolist()


def test_documents_without_a_host_are_held_out_one_by_one() -> None:
    val, kind = divide([(None, i, 10) for i in range(100)], 0.1)
    assert kind == "host"
    assert val.sum() == 10


def test_hosts_are_chosen_alike_in_every_corpus() -> None:
    first, _ = divide([(f"site{i}.example", i, 10) for i in range(50)], 0.2)
    second, _ = divide([(f"site{i}.example", 100 + i, 10) for i in range(50)], 0.2)
    assert first.tolist() == second.tolist()
