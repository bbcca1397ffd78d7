"""The small template language of the sample's pages."""

import random
import re
from collections.abc import Mapping, Sequence

_CHOICE = re.compile(r"\(([^()|]*\|[^()]*)\)")
_SLOT = re.compile(r"<(?:(\d+)-(\d+)(?:/(\d+))?|(\+?)([a-z_]+))>")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=(?!us|uni|eu|one)[aeiouAEIOU]|8|11\b|18\b)")
RARITY = 3  # the smaller, the more often the first entries of a list are drawn before the last


class Voice:
    """Speaks the templates of one page.

    `(a|b)` is a choice, `<20-90/5>` a number in steps of 5, `<word>` an entry of the list `word` that stays the
    same on the page, `<+word>` a new one each time. Entries are templates themselves.
    """

    def __init__(self, lists: Mapping[str, Sequence[str]], rng: random.Random) -> None:
        self._lists = lists
        self._rng = rng
        self._left: dict[str, list[str]] = {}
        self._kept: dict[str, str] = {}

    def draw(self, name: str) -> str:
        """A spoken entry of the list `name`; none comes twice before all have come."""
        left = self._left.get(name)
        if not left:
            left = self._left[name] = self._shuffled(self._lists[name])
        return self.speak(left.pop())

    def _shuffled(self, entries: Sequence[str]) -> list[str]:
        """The entries in random order, the list's first more often at the end: language has common and rare words."""
        keys = [self._rng.random() ** (place + RARITY) for place in range(len(entries))]
        return [entry for _, entry in sorted(zip(keys, entries, strict=True))]

    def speak(self, template: str) -> str:
        """The template with its choices made and its slots filled, and `an` for `a` before a vowel."""
        filled = _SLOT.sub(self._fill, _CHOICE.sub(self._choose, template))
        return _A_BEFORE_VOWEL.sub(r"\1n ", filled)

    def _choose(self, match: re.Match[str]) -> str:
        return self._rng.choice(match[1].split("|"))

    def _fill(self, match: re.Match[str]) -> str:
        low, high, step, fresh, name = match.groups()
        if low:
            return str(self._rng.randrange(int(low), int(high) + 1, int(step or 1)))
        if fresh:
            return self.draw(name)
        if name not in self._kept:
            self._kept[name] = self.draw(name)
        return self._kept[name]


def capitalised(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """The text as a sentence: a capital first letter and a full stop, unless it ends in another mark."""
    text = capitalised(text)
    return text if text[-1] in ".?!" else text + "."
