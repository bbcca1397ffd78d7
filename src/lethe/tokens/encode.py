"""Documents to ids: by `tokenizers`, the reference, or by a faster encoder wherever it gives the same ids.

The faster one is gigatoken, the extra `fast`. Nobody has to trust it: it must agree with the reference on
`lethe.tokens.torture` before it encodes, and on one document in a hundred of whatever it encodes.
"""

import json
import random
import re
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from lethe.tokens.tokenizer import byte_lengths, load_tokenizer
from lethe.tokens.torture import torture_texts

CHECKED = 0.01  # share of the documents encoded twice
FORGET_AFTER = 64_000_000
"""Characters after which gigatoken is made anew: it remembers every word it has seen, for ever. Made of nothing but new
words these take 700 MB."""

# What Unicode 17 has added to letters and numbers: gigatoken 0.10 knows them, tokenizers 0.23 does not yet, so they
# split text at other places. Pages that hold one (none of 51,000 real ones did) are left to the reference.
_ADDED = (
    "\u088f\u0c5c\u0cdc\ua7ce\ua7cf\ua7d2\ua7d4\ua7f1\U00010940-\U00010959\U00010ec5-\U00010ec7\U00011db0-\U00011ddb"
    "\U00011de0-\U00011de9\U00016ea0-\U00016eb8\U00016ebb-\U00016ed3\U00016ff2-\U00016ff6\U000187f8-\U000187ff"
    "\U00018d09-\U00018d1e\U00018d80-\U00018df2\U0001e6c0-\U0001e6de\U0001e6e0-\U0001e6e2\U0001e6e4\U0001e6e5"
    "\U0001e6e7-\U0001e6ed\U0001e6f0-\U0001e6f4\U0001e6fe\U0001e6ff\U0002b73a-\U0002b73f\U0002cea2-\U0002cead"
    "\U000323b0-\U00033479"
)
_NEW_LETTER = re.compile(f"[{_ADDED}]")
_FIRST_BYTES = sorted({character.encode()[:1] for character in _ADDED if character != "-"})


class Difference(NamedTuple):
    """Where two encodings part: the document's number, and the byte of its text at which the first other id begins."""

    document: int
    byte: int


class DisagreementError(Exception):
    """The faster encoder gave other ids than the reference; `difference` says where."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(difference)
        self.difference = difference


def reference(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """The ids of each document, uint32 [its tokens]; `tokenizer` comes from `load_tokenizer`."""
    return [np.array(encoding.ids, np.uint32) for encoding in tokenizer.encode_batch_fast(texts)]


class Fast:
    """The same tokenizer in gigatoken, on this thread alone. Raises ImportError where that is not installed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.name = tokenizer, f"gigatoken {metadata.version('gigatoken')}"
        self._lengths = byte_lengths(tokenizer)
        # It has no `encode_special_tokens`: an added token that it does not know is a token that no text becomes.
        self._document = json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": []})
        self._renew()

    def _renew(self) -> None:
        import gigatoken

        self._backend: Any = gigatoken.Tokenizer.from_json(self._document)
        self._characters = 0

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """As `reference` does, without a check."""
        import awkward

        if self._characters > FORGET_AFTER:
            self._renew()
        self._characters += sum(map(len, texts))
        others = [i for i, text in enumerate(texts) if _holds_new_letter(text)]
        known = [*texts]
        for i in others:
            known[i] = ""
        encoded = self._backend.encode_batch(known, parallel=False)
        ends = np.cumsum(awkward.to_numpy(awkward.num(encoded)))
        ids = np.split(awkward.to_numpy(awkward.flatten(encoded)), ends)[:-1]
        for i, exact in zip(others, reference(self.tokenizer, [texts[i] for i in others]), strict=True):
            ids[i] = exact
        return ids

    def encode_checked(self, texts: list[str], where: str, row: int) -> list[np.ndarray]:
        """As `encode`, and the first document and a hundredth of the others by the reference too.

        `where` and `row` say where the texts stand, and so which are drawn. Raises DisagreementError, with a document's
        number counted from `row` on, at the first of them with other ids.
        """
        ids, rng = self.encode(texts), random.Random(f"{where}/{row}")
        drawn = [i for i in range(len(texts)) if i == 0 or rng.random() < CHECKED]
        exact = reference(self.tokenizer, [texts[i] for i in drawn])
        found = first_difference(exact, [ids[i] for i in drawn], self._lengths)
        if found:
            raise DisagreementError(Difference(row + drawn[found.document], found.byte))
        return ids


def _holds_new_letter(text: str) -> bool:
    if text.isascii():
        return False
    page = text.encode()
    return any(byte in page for byte in _FIRST_BYTES) and _NEW_LETTER.search(text) is not None


def first_difference(exact: list[np.ndarray], found: list[np.ndarray], lengths: np.ndarray) -> Difference | None:
    """The first document whose ids are not the exact ones; `lengths` are the `byte_lengths` of the tokenizer."""
    for number, (one, other) in enumerate(zip(exact, found, strict=True)):
        if not np.array_equal(one, other):
            shared = min(len(one), len(other))
            same = int(np.argmin(np.append(one[:shared] == other[:shared], False)))
            return Difference(number, int(lengths[one[:same]].sum()))
    return None


def fast_encoder(tokenizer: Tokenizer) -> tuple[Fast | None, str]:
    """The faster encoder, None where it is missing or not exact; and a line for people about which is used and why."""
    try:
        fast = Fast(tokenizer)
    except ImportError:
        return None, "with tokenizers; gigatoken, the extra `fast`, is faster and not installed"
    except Exception as error:  # it says in its own types what it cannot load
        return None, f"with tokenizers: gigatoken cannot take this tokenizer: {error}"
    texts = torture_texts()
    found = first_difference(reference(tokenizer, texts), fast.encode(texts), byte_lengths(tokenizer))
    if found:
        text = texts[found.document]
        return None, (
            f"with tokenizers: {fast.name} gives other ids on torture text {found.document}, from byte {found.byte} "
            f"on: {ascii(text.encode()[found.byte :][:20])}"
        )
    return fast, f"with {fast.name}"


class Encoders(NamedTuple):
    """What encodes: the reference, the faster one or None, and a line for people about which is used and why."""

    tokenizer: Tokenizer
    fast: Fast | None
    how: str


@lru_cache(maxsize=1)
def encoders(path: Path) -> Encoders:
    """Of the tokenizer kept at `path`; checked once in a process. Raises UserError as `load_tokenizer` does."""
    tokenizer = load_tokenizer(path)
    return Encoders(tokenizer, *fast_encoder(tokenizer))
