"""The batch of a step is a pure function of stage and step.

A mixture is spread over the sequence of windows by counting, not by chance, and each corpus is read in an order
given by a permutation that can be evaluated at any position. No state, hence exact resume, and the number of ranks
changes nothing.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

_ONE = 1 << 32  # shares are counted in units of 2^-32, so that all arithmetic is exact
_HALF = _ONE >> 1


def draws(mixture: Mapping[str, float], windows: int) -> dict[str, int]:
    """How many of the first `windows` windows of a stage each corpus gives."""
    result, left = {}, windows
    for name, share in _nested_shares(mixture):
        result[name] = (left * share + _HALF) // _ONE
        left -= result[name]
    return result


def assign(mixture: Mapping[str, float], slots: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Which corpus fills each slot, and with its how-manieth window.

    `slots` is int64 [n], positions in the sequence of windows of the stage. Returns, per corpus, the indices into
    `slots` that it fills and the count of its windows before each (both int64). Shares are split off one by one:
    with r(k) = round(k w), slot k goes to the first corpus where r(k + 1) > r(k), else it is slot k - r(k) of the rest.
    """
    result, here, rest = {}, np.arange(len(slots)), slots.astype(np.int64)
    for name, share in _nested_shares(mixture):
        before = (rest * share + _HALF) >> 32
        taken = (((rest + 1) * share + _HALF) >> 32) > before
        result[name] = (here[taken], before[taken])
        here, rest = here[~taken], (rest - before)[~taken]
    return result


def _nested_shares(mixture: Mapping[str, float]) -> list[tuple[str, int]]:
    """Each corpus's share of what the corpora before it leave, in units of 2^-32; the last takes all."""
    names, left, shares = sorted(mixture), 1.0, []
    for name in names:
        last = name == names[-1]
        shares.append((name, _ONE if last else min(round(mixture[name] / left * _ONE), _ONE)))
        left -= mixture[name]
    return shares


def shuffled(positions: np.ndarray, size: int, seed: str) -> np.ndarray:
    """What stands at `positions` (int64 [n]) of an endless stream over range(size): each epoch another permutation."""
    epochs, places = np.divmod(positions, size)
    items = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        items[here] = permute(places[here], size, f"{seed}/{epoch}")
    return items


def permute(positions: np.ndarray, size: int, seed: str) -> np.ndarray:
    """Images of `positions` (int64 [n], each in [0, size)) under a pseudo-random permutation of range(size).

    A Feistel network over the next even power of two with cycle walking (Black & Rogaway 2002, "Ciphers with
    arbitrary finite domains"), rounds mixed by the finaliser of splitmix64 (Steele et al. 2014). Unlike a stored
    permutation it costs no memory, and unlike numpy's it can never change with a library's version.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    digest = hashlib.sha256(seed.encode()).digest()
    keys = [np.uint64(int.from_bytes(digest[i : i + 4], "little")) for i in range(0, 24, 4)]
    images = _feistel(positions.astype(np.uint64), half, mask, keys)
    while (outside := images >= size).any():
        images[outside] = _feistel(images[outside], half, mask, keys)
    return images.astype(np.int64)


def _feistel(x: np.ndarray, half: int, mask: np.uint64, keys: list[np.uint64]) -> np.ndarray:
    left, right = x >> np.uint64(half), x & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + (key << np.uint64(32))) & mask)
    return (left << np.uint64(half)) | right


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
