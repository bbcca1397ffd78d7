"""How often the words of several lists stand on each page, in array operations over up to about four thousand.

Patterns of a thousand alternatives cost four times what reading the pages costs. Here the first four bytes of every
word of a text are looked up in a table; the one in twenty that may be in a list is then compared whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pyarrow as pa

BLOCK_BYTES = 1 << 18  # of text at once; more leave the cache
MAX_BYTES = 24  # of a word of a list, its plural included
_SLOTS = 17  # bits of a place in a table
_TO_SLOT = np.uint64(64 - _SLOTS)
_FACTOR = np.uint32(2654435761)  # 2^32 / golden ratio (Knuth's multiplicative hash)
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)  # odd, of SplitMix64
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


class Counts(NamedTuple):
    """For each list and text: `hits` of its words, and how many `distinct` ones are there, those within phrases too;
    int64 (lists, texts) both."""

    hits: np.ndarray
    distinct: np.ndarray


class WordLists:
    """Lists of words and phrases, ready to be counted.

    A word is a run of ASCII letters, digits and _, in any case, and stands for its plural in -s or -es too. Between
    the words of a phrase anything may stand that is in no word; the longest phrase counts, and its words not again.
    """

    def __init__(self, lists: Sequence[Sequence[str]]) -> None:
        """Each word in lower case and of at most MAX_BYTES with its plural, those of a phrase apart by one space."""
        forms = [form for words in lists for word in words for form in _forms(word)]
        self._keys = np.unique(np.array([_key(token) for form in forms for token in form], np.uint64))
        number = {token: int(np.searchsorted(self._keys, np.uint64(_key(token)))) for form in forms for token in form}
        self._lists = [_Trie(words, number) for words in lists]
        self._known = np.zeros(1 << _SLOTS, bool)
        self._known[self._keys >> _TO_SLOT] = True
        # By their beginnings: what words and phrases begin with, phrases of two words, of three, ...
        longest = max(map(len, forms), default=1)
        self._begin = [_table({form[0] for form in forms if len(form) >= size}) for size in range(1, longest + 1)]

    def count(self, texts: pa.ChunkedArray, first: int) -> Counts:
        """In the first so many bytes of each text; null is empty."""
        found = self._find(_pieces(texts, first))
        counted = [words.count(found, len(texts)) for words in self._lists]
        return Counts(*(np.array(each).reshape(len(self._lists), len(texts)) for each in zip(*counted, strict=True)))

    def _find(self, pieces: list[memoryview]) -> "_Found":
        """The words that are in some list, and those after one that begins a phrase, in order."""
        parts, texts, words, size = [], [], 0, 0
        for page, block in _blocks(pieces):
            folded, in_word, ends = _folded(block)
            begins = np.flatnonzero(in_word[1:-MAX_BYTES] > in_word[: -MAX_BYTES - 1])
            begins += 1
            likely = self._likely(_slots(_numbers(folded, np.uint32).take(begins)))
            at = begins[likely]
            parts.append((np.searchsorted(ends, at, side="right") + page, likely + words, at + size))
            texts.append(folded)
            words, size = words + len(begins), size + len(folded)
        pages, places, at = (np.concatenate(part) for part in zip(*parts, strict=True))
        tokens = self._tokens(_keys_at(np.concatenate(texts), at))
        known = np.flatnonzero(tokens >= 0)
        return _Found(pages[known], places[known], tokens[known])

    def _likely(self, slots: np.ndarray) -> np.ndarray:
        """The places of words that may be in a list, or go on a phrase, given those of their first bytes."""
        first, *longer = self._begin
        likely = first.take(slots)
        places = np.flatnonzero(longer[0].take(slots)) if longer else np.zeros(0, np.int64)
        for ahead, table in enumerate(longer, start=1):
            places = places[table.take(slots[places])]
            likely[places[places < len(likely) - ahead] + ahead] = True
        return np.flatnonzero(likely)

    def _tokens(self, keys: np.ndarray) -> np.ndarray:
        """The numbers of words, -1 for those in no list."""
        slots = (keys >> _TO_SLOT).view(np.int64)
        likely = np.flatnonzero(self._known.take(slots))
        some = keys[likely]
        places = np.searchsorted(self._keys, some)
        tokens = np.full(len(keys), -1)
        tokens[likely] = np.where(self._keys.take(places, mode="clip") == some, places, -1)
        return tokens


class _Found(NamedTuple):
    """Words of texts: the `pages` they stand on, their `places` among all words, their numbers as `tokens`."""

    pages: np.ndarray
    places: np.ndarray
    tokens: np.ndarray


class _Trie:
    """One list: from the first token of a word or phrase to its last, a step each."""

    def __init__(self, words: Sequence[str], number: dict[str, int]) -> None:
        self.tokens, self.words = len(number), len(words)
        steps: dict[tuple[int, int], int] = {}
        ends = [-1]  # of each node the word that ends there
        for index, word in enumerate(words):
            for form in _forms(word):
                node = 0
                for token in form:
                    node = steps.setdefault((node, number[token]), len(ends))
                    ends += [-1] * (node == len(ends))
                ends[node] = index if ends[node] < 0 else ends[node]
        self.ends = np.array(ends)
        self.goes_on = np.zeros(len(ends), bool)
        self.goes_on[[before for before, _ in steps]] = True
        self.first, self.uses = np.zeros(self.tokens, np.int64), np.zeros(self.tokens, bool)
        self.uses[[each for _, each in steps]] = True
        for (before, each), to in steps.items():
            self.first[each] = self.first[each] if before else to
        onward = sorted((before * self.tokens + each, to) for (before, each), to in steps.items() if before)
        self.steps, self.nodes = np.array([*onward, (np.iinfo(np.int64).max, 0)]).T

    def count(self, found: _Found, pages: int) -> tuple[np.ndarray, np.ndarray]:
        """Hits and distinct words on each page."""
        mine = np.flatnonzero(self.uses[found.tokens])
        page, place, token = found.pages[mine], found.places[mine], found.tokens[mine]
        node = self.first[token]
        single = self.ends[node]
        word, inside = single.copy(), np.zeros(len(mine), bool)
        at, ahead = np.flatnonzero(self.goes_on[node] & (node > 0)), 1
        while len(at := at[at + ahead < len(mine)]):
            to = at + ahead
            follows = (place[to] - place[at] == ahead) & (page[to] == page[at])
            at, to = at[follows], to[follows]
            node[at] = self._step(node[at], token[to])
            at = at[node[at] > 0]
            whole = at[self.ends[node[at]] >= 0]
            word[whole] = self.ends[node[whole]]
            for behind in range(1, ahead + 1):
                inside[whole + behind] = True
            at, ahead = at[self.goes_on[node[at]]], ahead + 1
        hits = np.bincount(page[(word >= 0) & ~inside], minlength=pages)
        there = np.zeros((pages, self.words + 1), bool)  # the last column for tokens that are no word
        there[page, single] = there[page, word] = True
        return hits, np.count_nonzero(there[:, : self.words], axis=1)

    def _step(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The node after each, 0 where there is none."""
        wanted = nodes * self.tokens + tokens
        at = np.searchsorted(self.steps, wanted)
        return np.where(self.steps[at] == wanted, self.nodes[at], 0)


def _forms(word: str) -> Iterator[tuple[str, ...]]:
    *before, last = word.split(" ")
    for end in ("", "s", "es"):
        yield (*before, last + end)


def _pieces(texts: pa.ChunkedArray, first: int) -> list[memoryview]:
    """The beginning of each text."""
    pieces: list[memoryview] = []
    for chunk in texts.chunks:
        offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset :][: len(chunk) + 1]
        sizes = np.minimum(np.diff(offsets), first)
        data = memoryview(chunk.buffers()[2] or b"")
        pieces += [data[at : at + size] for at, size in zip(offsets[:-1].tolist(), sizes.tolist(), strict=True)]
    return pieces


def _blocks(pieces: list[memoryview]) -> Iterator[tuple[int, list[memoryview]]]:
    """The pieces, some together, and the number of the first of them."""
    begun = size = 0
    for number, piece in enumerate(pieces):
        if size + len(piece) > BLOCK_BYTES and number > begun:
            yield begun, pieces[begun:number]
            begun, size = number, 0
        size += len(piece)
    yield begun, pieces[begun:]


def _folded(block: list[memoryview]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pieces' bytes, letters in lower case and what is in no word as 0; what is in one; where each piece ends.

    A 0 stands before the first and after each, and MAX_BYTES of them after the last.
    """
    raw = np.frombuffer(b"\0" + b"\0".join(block) + bytes(MAX_BYTES + 1), np.uint8)
    lower = raw | 32  # digits have the bit already
    in_word = (lower - 97 < 26) | (raw - 48 < 10) | (raw == ord("_"))
    return lower * in_word.view(np.uint8), in_word, np.cumsum([len(piece) + 1 for piece in block]) + 1


def _numbers(folded: np.ndarray, kind: type) -> np.ndarray:
    """The little-endian numbers that begin at each byte, as far as they are whole; nothing is copied.

    `take` copies all before it takes, which is faster where many are wanted, and `[]` does not.
    """
    size = np.dtype(kind).itemsize
    return np.ndarray(len(folded) - size + 1, np.dtype(kind).newbyteorder("<"), folded, strides=(1,))


def _keys_at(folded: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A number for the word that begins at each byte, equal where the first MAX_BYTES are: uint64."""
    key, longer, eights = np.zeros(len(at), np.uint64), np.arange(len(at)), _numbers(folded, np.uint64)
    for i, factor in enumerate(_FACTORS):
        eight = eights[at[longer] + 8 * i]
        zeros = (eight - _ONES) & ~eight & _TOPS  # the lowest set bit is in the first 0 byte (Mycroft)
        before = ((zeros & (~zeros + np.uint64(1))) >> np.uint64(7)) - np.uint64(1)
        key[longer] += (eight & before) * factor
        longer = longer[zeros == 0]
    return key


def _key(token: str) -> int:
    """As `_keys_at` gives it."""
    padded = token.encode().ljust(MAX_BYTES, b"\0")
    eights = (int.from_bytes(padded[i : i + 8], "little") for i in range(0, MAX_BYTES, 8))
    return sum(eight * int(factor) for eight, factor in zip(eights, _FACTORS, strict=True)) % (1 << 64)


def _starts(token: str) -> Iterable[int]:
    """The four bytes that a text may have where this token begins; after its end comes a 0, then anything."""
    word = token.encode()[:4]
    anything = [0, *b"0123456789abcdefghijklmnopqrstuvwxyz\x7f"]
    for rest in product(anything, repeat=max(3 - len(word), 0)):
        yield int.from_bytes((word + b"\0")[:4] + bytes(rest), "little")


def _table(tokens: set[str]) -> np.ndarray:
    """Which slots some of these tokens begin in, bool."""
    table = np.zeros(1 << _SLOTS, bool)
    table[_slots(np.array([start for token in tokens for start in _starts(token)], np.uint32))] = True
    return table


def _slots(starts: np.ndarray) -> np.ndarray:
    return (starts * _FACTOR) >> np.uint32(32 - _SLOTS)
