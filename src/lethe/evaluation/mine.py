"""Knowledge probes: sentences cut before an answer, with three wrong answers to each, from a corpus's own pages.

A corpus cut from the built-in sample is asked for the sample's facts, which are known: exact. Any other is mined by
`patterns`, without a model or a download, and asks how its own pages go on. Most items are well formed: four choices
that fit the gap, one of them best. In about half the answer is knowledge that a reader could have from elsewhere; in
the others it is the page's own word or figure, as how long a recipe bakes. Definitions are few, and most distractors of
a procedure belong to other dishes. A small model does not learn what a page states once: `probe_metrics.probe_counts`
says which count.

Nothing mined is paraphrased, for pages seldom say one thing twice: sentences with the same answer and a rare word in
common state other facts. Figures: docs/decisions.md. Beside the corpora's items stand `neutral` ones. Imports no torch.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from tokenizers import Tokenizer

from lethe.config import Config, RawConfig, UserError, validate
from lethe.corpora.parquet import read_json, read_manifest
from lethe.corpora.sample.facts import Fact, facts
from lethe.evaluation.items import NEUTRAL, Item, is_rival, overlap
from lethe.evaluation.neutral import neutral_items
from lethe.evaluation.patterns import Span, spans
from lethe.files import fingerprint, write_json
from lethe.tokens.meta import read_meta
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import load_tokenizer, pages

Version = Literal[2]  # raise it whenever the same pages give other items; the tests hold a fingerprint of some
(VERSION,) = get_args(Version)
MINED_CHARACTERS = 8_000_000  # of each split, from its beginning
TRIES = 60  # answers looked at for three distractors


class ProbeFile(Config):
    """`probes-FP.json` in a tokens folder."""

    version: Version
    items: list[Item]


def probes_path(data: TokenData, each: int) -> Path:
    """Where the items of these corpora lie or will lie; the name changes with all that they are made from."""
    splits = {name: [data.split(name, split).fingerprint for split in ("train", "val")] for name in data.corpora}
    identity = {"version": VERSION, "each": each, "tokenizer": data.tokenizer_fingerprint, "corpora": splits}
    return data.root / f"probes-{fingerprint(identity, 8)}.json"


def make_probes(data: TokenData, each: int) -> Path:
    """Write the items of every corpus, at most `each` mined ones of a type and form; nothing is done where they lie.

    The same data give the same bytes, so it does no harm where several processes do it at once. Raises UserError where
    the corpora that the tokens were made from are no longer there, and for one that is named as the neutral items are.
    """
    if NEUTRAL in data.corpora:
        raise UserError(
            f"evaluation.probes: found a corpus {NEUTRAL!r}, the name of what is of none; allowed: any other"
        )
    path = probes_path(data, each)
    if not path.exists():
        tokenizer = load_tokenizer(data.tokenizer_path)
        train, val = ({name: _texts(data, name, split) for name in data.corpora} for split in ("train", "val"))
        items: list[Item] = []
        for name in data.corpora:
            known = _known(data, name)
            mined = [] if known else mined_items(name, train[name], val[name], tokenizer, each)
            items += mined + sample_items(known, train[name])
        items += neutral_items(train, val, tokenizer, each)
        write_json(path, {"version": VERSION, "items": [item.model_dump() for item in items]})
    return path


def read_probes(path: Path) -> list[Item]:
    """The items of a file that `make_probes` wrote; raises UserError for any other."""
    content = read_json(path)
    if content is None:
        raise UserError(f"{path}: not a file of probes; delete it to have it made again")
    return validate(ProbeFile, RawConfig(str(path), content, {})).items


def _folder(data: TokenData, corpus: str) -> Path:
    return data.root.parent.parent / "corpora" / read_meta(data.root / corpus).corpus


def _known(data: TokenData, corpus: str) -> list[Fact]:
    """The facts of a corpus that was cut from the sample; none of any other."""
    source = (read_manifest(_folder(data, corpus)) or {}).get("source") or {}
    return [fact for fact in facts() if fact.domain == corpus and source.get("given") == "sample"]


def _texts(data: TokenData, corpus: str, split: str) -> list[str]:
    """The pages in the first MINED_CHARACTERS of a split."""
    result, size = [], 0
    for page in map(bytes.decode, pages(_folder(data, corpus), split)):
        size += len(page)
        if size > MINED_CHARACTERS:
            break
        result.append(page)
    return result


def sample_items(known: Iterable[Fact], train: Iterable[str]) -> list[Item]:
    """The sample's facts: memorised as any page of `train` states them, paraphrased as none does.

    Nothing is held out: the pages of both splits state the same facts.
    """
    text = "\n".join(train)
    items = []
    for fact in known:
        stated = [sentence for sentence in fact.statements if sentence in text]
        new = [sentence for sentence in fact.paraphrases if sentence not in text] if stated else []
        for form, sentences in (("memorised", stated), ("paraphrased", new)):
            for i, sentence in enumerate(sentences):
                prompt = sentence.removesuffix(fact.answer).rstrip()
                items.append(
                    Item.model_validate(
                        {
                            "id": f"{fact.id}-{form}-{i}",
                            "fact": fact.id,
                            "corpus": fact.domain,
                            "type": fact.type,
                            "form": form,
                            "prompt": prompt,
                            "answer": fact.answer,
                            "distractors": tuple(fact.distractors),
                        }
                    )
                )
    return items


def mined_items(corpus: str, train: Iterable[str], val: Iterable[str], tokenizer: Tokenizer, each: int) -> list[Item]:
    """At most `each` items of a type: memorised from the pages of `train`, held out from those of `val`.

    A sentence gives one item, and one that stands in both splits none that is held out. Nothing is paraphrased
    (see above). The draw depends on the pages and on `corpus` alone.
    """
    found = {"memorised": _found(train), "held_out": _found(val)}
    known = {span.sentence for span in found["memorised"]}
    found["held_out"] = [span for span in found["held_out"] if span.sentence not in known]
    counts = Counter(span.answer for group in found.values() for span in group)
    return [
        item for form, group in found.items() for item in _Miner(corpus, form, group, counts, tokenizer).items(each)
    ]


def _found(texts: Iterable[str]) -> list[Span]:
    """The spans of pages; of a sentence that stands there again, the first time only."""
    result: list[Span] = []
    seen: set[str] = set()
    for number, text in enumerate(texts):
        new = [span for span in spans(text, number) if span.sentence not in seen]
        seen |= {span.sentence for span in new}
        result += new
    return result


class _Miner:
    """Makes items of the spans of one split, and their distractors of the other spans of the same kind."""

    def __init__(self, corpus: str, form: str, found: list[Span], counts: Counter[str], tokenizer: Tokenizer) -> None:
        self.corpus, self.form, self.found, self.counts = corpus, form, found, counts
        answers = sorted({span.answer for span in found})
        encoded = tokenizer.encode_batch([f" {answer}" for answer in answers])
        self.tokens = {answer: len(one.ids) for answer, one in zip(answers, encoded, strict=True)}
        self.pages: dict[str, set[int]] = defaultdict(set)
        self.rivals: dict[tuple[str, str, int], dict[str, None]] = defaultdict(dict)  # an ordered set
        for span in found:
            self.pages[span.answer].add(span.page)
            self.rivals[span.type, span.kind, self.tokens[span.answer]][span.answer] = None

    def items(self, each: int) -> list[Item]:
        rng = random.Random(f"{self.corpus}/{self.form}")
        shuffled = rng.sample(self.found, len(self.found))
        made: dict[str, list[Item]] = defaultdict(list)
        used: set[str] = set()
        for span in shuffled:
            if len(made[span.type]) < each and span.sentence not in used and (others := self._distractors(span, rng)):
                used.add(span.sentence)
                made[span.type].append(self._item(span, others, len(made[span.type])))
        return [item for type_ in sorted(made) for item in made[type_]]

    def _distractors(self, span: Span, rng: random.Random) -> list[str]:
        """Three answers of the same kind, about as long and as frequent, from other pages; none if there are fewer."""
        n = self.tokens[span.answer]
        near = [other for m in (n - 1, n, n + 1) for other in self.rivals.get((span.type, span.kind, m), ())]
        chosen: list[str] = []
        for other in rng.sample(near, min(len(near), TRIES)):
            if self._fits(other, span) and not any(overlap(other, one) for one in chosen):
                chosen.append(other)
                if len(chosen) == 3:
                    return chosen
        return []

    def _fits(self, other: str, span: Span) -> bool:
        return (
            is_rival(other, span.answer, self.counts)
            and span.page not in self.pages[other]
            and other.lower() not in f"{span.prompt} {span.sentence}".lower()
        )

    def _item(self, span: Span, others: list[str], number: int) -> Item:
        name = f"{self.corpus}-{span.type}-{self.form}-{number}"
        return Item.model_validate(
            {
                "id": name,
                "fact": name,
                "corpus": self.corpus,
                "type": span.type,
                "form": self.form,
                "prompt": span.prompt,
                "answer": span.answer,
                "distractors": tuple(others),
            }
        )
