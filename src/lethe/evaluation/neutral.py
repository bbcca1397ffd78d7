"""Neutral probes: how a model goes on where nothing tells one corpus from another.

An item is a run of words on a held-out page that all corpora use about alike, its last one the answer, and as many
runs come from the pages of one corpus as from those of any other. It asks for no fact, but for common English: what a
model loses here it lost of the language, and not of a domain.

On the sample models do better by about .1 on runs of their own corpus's pages, which is why each gives as many. Where
ALIKE is 4 real pages give 96 items instead of 50, less well answered (measured once: .33 by the model of recipes,
instead of .44).
Other figures: docs/decisions.md. Imports no torch.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from tokenizers import Tokenizer

from lethe.evaluation.items import NEUTRAL, Item, is_rival
from lethe.evaluation.patterns import SHORTEST_PROMPT, is_prose, sentences

ALIKE = 3.0  # the largest share of a word in a corpus over the smallest
FEWEST = 20  # times that it stands in each
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")


class Run(NamedTuple):
    """A prompt of words that all corpora use alike, one more such word after it, and the sentence of both."""

    prompt: str
    answer: str
    sentence: str


def shared_words(counts: Sequence[Counter[str]]) -> dict[str, int]:
    """The lower-case words whose shares of the corpora are alike, by how often they stand in all together."""
    totals = [max(count.total(), 1) for count in counts]
    result = {}
    for word in sorted(set[str]().union(*counts)):
        found = [count[word] for count in counts]
        shares = [one / total for one, total in zip(found, totals, strict=True)]
        if min(found) >= FEWEST and max(shares) <= ALIKE * min(shares):
            result[word] = sum(found)
    return result


def words_of(text: str) -> list[str]:
    """Its words in lower case; a word may hold hyphens and apostrophes, but no digit."""
    return [word.lower() for word in _WORD.findall(text)]


def runs(page: str, shared: Mapping[str, int]) -> Iterator[Run]:
    """The runs of shared words on a page, none within another, only spaces between the words of each."""
    for line in map(str.strip, page.splitlines()):
        for sentence in filter(is_prose, sentences(line)):
            begin = end = -1
            for match in _WORD.finditer(sentence):
                if begin < 0 or sentence[end : match.start()] != " ":
                    begin = match.start()
                end = match.end()
                if match[0].lower() not in shared:
                    begin = -1
                elif match.start() - 1 - begin >= SHORTEST_PROMPT and match[0] in shared:
                    yield Run(sentence[begin : match.start() - 1], match[0], sentence)
                    begin = -1


def neutral_items(
    train: Mapping[str, Sequence[str]], val: Mapping[str, Iterable[str]], tokenizer: Tokenizer, each: int
) -> list[Item]:
    """At most `each` items, equally many from the pages `val` of each corpus; none where there is one corpus only.

    Every item has another answer. No sentence stands on a page of `train`. The draw depends on pages and names.
    """
    if len(train) < 2:
        return []
    shared = shared_words([Counter(word for page in pages for word in words_of(page)) for pages in train.values()])
    maker = _Maker(shared, ["\n".join(pages) for pages in train.values()], tokenizer)
    streams = [
        maker.items(corpus, [run for page in pages for run in runs(page, shared)]) for corpus, pages in val.items()
    ]
    return [item for one_of_each in islice(zip(*streams, strict=False), each // len(train)) for item in one_of_each]


class _Maker:
    """Makes items of runs; what was asked for once is not asked for again."""

    def __init__(self, shared: Mapping[str, int], trained: Sequence[str], tokenizer: Tokenizer) -> None:
        self.shared, self.trained, self.used = shared, trained, set[str]()
        words = list(shared)
        encoded = tokenizer.encode_batch([f" {word}" for word in words])
        self.tokens = {word: len(one.ids) for word, one in zip(words, encoded, strict=True)}

    def items(self, corpus: str, found: list[Run]) -> Iterator[Item]:
        rng = random.Random(f"{NEUTRAL}/{corpus}")
        for run in rng.sample(found, len(found)):
            if run.answer in self.used or any(run.sentence in text for text in self.trained):
                continue
            said = words_of(run.sentence)
            rivals = [word for word in self.shared if word not in said and self._fits(word, run.answer)]
            if len(rivals) >= 3:
                self.used.add(run.answer)
                yield self._item(run, rng.sample(rivals, 3))

    def _fits(self, other: str, answer: str) -> bool:
        """Whether a word is about as long and as frequent as the answer."""
        return abs(self.tokens[other] - self.tokens[answer]) <= 1 and is_rival(other, answer, self.shared)

    def _item(self, run: Run, others: list[str]) -> Item:
        name = f"{NEUTRAL}-word-held_out-{run.answer}"
        return Item.model_validate(
            {
                "id": name,
                "fact": name,
                "corpus": NEUTRAL,
                "type": "word",
                "form": "held_out",
                "prompt": run.prompt,
                "answer": run.answer,
                "distractors": tuple(others),
            }
        )
