"""What becomes of each candidate: which copies stay, what a host and a budget may have, what is held out.

Everything follows from what the pages hold, never from the order in which they were listed or scanned: of copies the
page with the best score stays, ties and all cuts go by a hash of text, address and id.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lethe.config import UserError
from lethe.corpora.named import Corpus
from lethe.corpora.near import near_duplicates
from lethe.corpora.split import Kind, split

DECIDING = ["corpus", "host", "text_hash", "token_count", "score"]  # and page_hash, uint64
DROPPED = ("duplicate", "near_duplicate", "host_share", "over_budget")


class Fates(NamedTuple):
    """`fates`: one of SPLITS or DROPPED for each candidate, object (candidates,); `kinds`: how each corpus was split;
    `clusters`: how many groups of near duplicates there were, and `pages` in them, over all corpora."""

    fates: np.ndarray
    kinds: dict[str, Kind]
    clusters: dict[str, int]


def decide(index: pa.Table, signed: np.ndarray, corpora: Mapping[str, Corpus]) -> Fates:
    """The fate of candidates (columns DECIDING and page_hash), given their lethe.corpora.near.signatures.

    Over all corpora together, of equal texts one stays, of near duplicates as near_duplicates says; what stays of a
    cluster stays in the corpus of its best page. Raises UserError where a corpus has too few hosts for its cap.
    """
    order = np.lexsort((index["page_hash"].to_numpy(), -index["score"].to_numpy()))
    order = order[_first(_codes(index["text_hash"])[order])]
    near = near_duplicates(signed, order)
    fates, kinds = np.full(index.num_rows, "duplicate", object), {}
    fates[order] = "near_duplicate"
    corpus_of = _codes(index["corpus"])
    stays = near.kept & (corpus_of == corpus_of[near.cluster])
    clusters = index["text_hash"].take(pa.array(near.cluster))  # named by what they hold
    index = index.set_column(index.schema.get_field_index("text_hash"), "cluster", clusters)
    by_hash = np.argsort(index["page_hash"].to_numpy())
    for name, corpus in corpora.items():
        mine = by_hash[(stays & pc.equal(index["corpus"], name).to_numpy())[by_hash]]
        kinds[name] = _share_out(name, corpus, index.take(pa.array(mine)).combine_chunks(), mine, fates)
    _, sizes = np.unique(near.cluster[order], return_counts=True)
    several = sizes[sizes > 1]
    return Fates(fates, kinds, {"clusters": len(several), "pages": int(several.sum())})


def _share_out(name: str, corpus: Corpus, pages: pa.Table, rows: np.ndarray, fates: np.ndarray) -> Kind:
    """Set the fates of a corpus's pages, in the order of their hashes, that lie in `rows` of all candidates."""
    tokens = pages["token_count"].to_numpy()
    hosts = _codes(pc.coalesce(pages["host"], pages["cluster"]))
    count = len(np.unique(hosts))
    if corpus.max_host_share and 0 < count * corpus.max_host_share < 1:
        raise UserError(
            f"corpus {name}: max_host_share: found {corpus.max_host_share}, where there are pages of {count} hosts; "
            f"allowed: null, or at least {1 / count:.3g} (1 / hosts)"
        )
    capped, over = fit(hosts, tokens, corpus.max_host_share, corpus.tokens)
    fates[rows[capped]], fates[rows[over]] = "host_share", "over_budget"
    inside = np.flatnonzero(~capped & ~over)
    chosen = pages.take(pa.array(inside))
    host, cluster = (chosen[column].combine_chunks() for column in ("host", "cluster"))
    val, kind = split(host, cluster, tokens[inside], corpus.val_share)
    fates[rows[inside]] = np.where(val, "val", "train").astype(object)
    return kind


def fit(
    hosts: np.ndarray, tokens: np.ndarray, share: float | None, budget: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which pages, in order of preference, are beyond a host's share and which beyond the budget: bool (pages,) each.

    The share is of the tokens that remain after both cuts, so it is lowered until it holds. Null for no limit.
    """
    used = _running(hosts, tokens)
    limit = np.inf if share is None else share * tokens.sum()
    while True:
        capped = used > limit
        over = ~capped & (np.cumsum(np.where(capped, 0, tokens)) > (budget or np.inf))
        allowed = np.inf if share is None else share * tokens[~capped & ~over].sum()
        if limit <= allowed:
            return capped, over
        limit = allowed


def _running(groups: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """For each element the sum of the sizes of its group up to and with it."""
    order = np.argsort(groups, kind="stable")
    total = np.cumsum(sizes[order])
    _, first, inverse = np.unique(groups[order], return_index=True, return_inverse=True)
    result = np.empty_like(total)
    result[order] = total - (total[first] - sizes[order][first])[inverse]
    return result


def _first(codes: np.ndarray) -> np.ndarray:
    """Where each code occurs first, in order of occurrence."""
    return np.sort(np.unique(codes, return_index=True)[1])


def _codes(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Numbers that are equal where values are."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.dictionary_encode().indices.to_numpy()
