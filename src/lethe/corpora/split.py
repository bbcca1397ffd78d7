"""Which documents are held out: whole sites, so that nothing held out has a neighbour among the training pages."""

import hashlib
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SPLITS = ("train", "val")
ENOUGH = 0.8  # of the wanted share; below it documents of sites too big to be held out as a whole fill up

Kind = Literal["host", "cluster"]


class Split(NamedTuple):
    """`val`: bool (documents,); `kind`: whether whole sites sufficed."""

    val: np.ndarray
    kind: Kind


def split(hosts: pa.Array, clusters: pa.Array, tokens: np.ndarray, share: float) -> Split:
    """Hold out `share` of the tokens, at most, whatever the order of the documents.

    Whole hosts are taken in an order drawn by sha256, and a host that would exceed the share is passed over; hosts
    that share a cluster of near duplicates count as one. Where that fills less than 80 % of it, whole clusters of the
    remaining hosts fill it in the same way. So a cluster is never parted. `hosts` and `clusters` are strings, `tokens`
    int64, all (documents,); a document without a host is a host of its own.
    """
    budget = share * tokens.sum()
    val = _fill(_sites(pc.coalesce(hosts, clusters), clusters), tokens, budget)
    if tokens[val].sum() >= ENOUGH * budget:
        return Split(val, "host")
    rest = np.flatnonzero(~val)
    val[rest[_fill(clusters.take(pa.array(rest)), tokens[rest], budget - tokens[val].sum())]] = True
    return Split(val, "cluster")


def _sites(hosts: pa.Array, clusters: pa.Array) -> pa.Array:
    """For each document the first by name of all hosts that clusters join with its own."""
    result = hosts
    while True:
        least = _least(_least(result, clusters), hosts)
        if least.equals(result):
            return result
        result = least


def _least(names: pa.Array, groups: pa.Array) -> pa.Array:
    """For each document the first by name within its group."""
    first = pa.table({"name": names, "group": groups}).group_by("group", use_threads=False).aggregate([("name", "min")])
    return first["name_min"].take(pc.index_in(groups, first["group"])).combine_chunks()


def _fill(groups: pa.Array, tokens: np.ndarray, budget: float) -> np.ndarray:
    """The members of whole groups, in seeded order, that fit the budget, bool (documents,)."""
    sizes = pa.table({"group": groups, "tokens": tokens}).group_by("group", use_threads=False)
    totals = sizes.aggregate([("tokens", "sum")])
    pairs = zip(totals["group"].to_pylist(), totals["tokens_sum"].to_pylist(), strict=True)
    chosen, used = [], 0
    for group, size in sorted(pairs, key=lambda pair: hashlib.sha256(f"val\0{pair[0]}".encode()).digest()):
        if used + size <= budget:
            chosen.append(group)
            used += size
    return pc.is_in(groups, pa.array(chosen, pa.string())).to_numpy(zero_copy_only=False)
