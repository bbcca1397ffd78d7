"""Knowledge probes: sentences cut before an answer, with three wrong answers to each, from a corpus's own pages.

A corpus cut from the built-in sample is asked for the sample's facts, which are known: exact. Any other is mined by the
patterns below, without a model or a download, and asks how its own pages go on. Of 40 items from real pages on food and
cars (8 of each type, drawn at random and read one by one), 33 were well formed: four choices that fit the gap, one of
them best. In 18 the answer is knowledge that a reader could have from elsewhere; in the others it is the page's own
word or figure, as how long a recipe bakes. Definitions are few, and most distractors of a procedure belong to other
dishes. A small model does not learn what a page states once (after 300,000 tokens every type was at chance):
`probe_metrics.probe_counts` says which count. A neutral set is a corpus of its own. Imports no torch.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field
from tokenizers import Tokenizer

from lethe.config import Config, Source, UserError, validate
from lethe.corpora.parquet import read_json, read_manifest
from lethe.corpora.sample.facts import Fact, facts
from lethe.files import fingerprint, write_json
from lethe.tokens.shards import TokenData, read_meta
from lethe.tokens.tokenizer import load_tokenizer, pages

VERSION = 1  # raise it whenever the same pages give other items; the tests hold a fingerprint of some
MINED_CHARACTERS = 8_000_000  # of each split, from its beginning
SHORTEST_PROMPT, LONGEST_PROMPT = 24, 240  # characters
CONTEXT_BELOW = 80  # characters: a shorter prompt gets the sentence before it
TRIES = 60  # answers looked at for three distractors

Type = Literal["entity", "number", "definition", "relation", "procedure"]
Form = Literal["memorised", "paraphrased", "held_out"]
Text = Annotated[str, Field(min_length=1)]


class Item(Config):
    """One question: which of four choices follows the prompt, after a space. Items of one fact differ in words."""

    id: str
    fact: str
    corpus: str
    type: Type
    form: Form
    prompt: Text
    answer: Text
    distractors: tuple[Text, Text, Text]


class ProbeFile(Config):
    """`probes-FP.json` in a tokens folder."""

    version: Literal[1]
    items: list[Item]


def probes_path(data: TokenData, each: int) -> Path:
    """Where the items of these corpora lie or will lie; the name changes with all that they are made from."""
    splits = {name: [data.split(name, split).fingerprint for split in ("train", "val")] for name in data.corpora}
    identity = {"version": VERSION, "each": each, "tokenizer": data.tokenizer_fingerprint, "corpora": splits}
    return data.root / f"probes-{fingerprint(identity, 8)}.json"


def make_probes(data: TokenData, each: int) -> Path:
    """Write the items of every corpus, at most `each` mined ones of a type and form; nothing is done where they lie.

    The same data give the same bytes, so it does no harm where several processes do it at once. Raises UserError where
    the corpora that the tokens were made from are no longer there.
    """
    path = probes_path(data, each)
    if not path.exists():
        tokenizer = load_tokenizer(data.tokenizer_path)
        items = [item for name in data.corpora for item in _items(data, name, each, tokenizer)]
        write_json(path, {"version": VERSION, "items": [item.model_dump() for item in items]})
    return path


def read_probes(path: Path) -> list[Item]:
    """The items of a file that `make_probes` wrote; raises UserError for any other."""
    content = read_json(path)
    if content is None:
        raise UserError(f"{path}: not a file of probes; delete it to have it made again")
    return validate(ProbeFile, Source(str(path), content, {})).items


def _items(data: TokenData, corpus: str, each: int, tokenizer: Tokenizer) -> list[Item]:
    folder = data.root.parent.parent / "corpora" / read_meta(data.root / corpus).corpus
    train, val = (map(bytes.decode, pages(folder, split)) for split in ("train", "val"))
    known = [fact for fact in facts() if fact.domain == corpus]
    if known and ((read_manifest(folder) or {}).get("source") or {}).get("given") == "sample":
        return sample_items(known, train)
    return mined_items(corpus, train, val, tokenizer, each)


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


# --- Mining ---------------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """A span that a sentence could be cut before. `kind`: what makes another answer fit the gap as well."""

    type: Type
    kind: str
    prompt: str
    answer: str
    sentence: str
    page: int


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNITS = (
    "degrees|seconds?|minutes|hours|days|weeks|months|years|miles|kilometers|km|mph|kg|grams|g|ounces|oz|pounds|lbs|"
    "cups|tablespoons|teaspoons|tbsp|tsp|inches|feet|liters|litres|gallons|quarts|horsepower|hp|percent|calories|"
    "dollars|million|billion|people|mpg|cc|rpm|cylinders|gears|speeds|volts|watts|servings"
)
_NUMBER = re.compile(rf"(?<= )(\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?) ({_UNITS})\b(?![-/])")
_RANGE = re.compile(r"\d (?:to|or|and|by|x|-) $")
_YEAR = re.compile(r"(?<=[a-z] )((?:18|19|20)\d\d)(?=[.,;:!?)]|$| [a-z])")
_AFTER_DATE = _words("in since from by until of during before after")
_NAME_WORD = r"[A-Z][A-Za-z]+(?:[-'’][A-Za-z]+)*"
_ENTITY = re.compile(
    rf"(?<= )(in|at|from|by|with|near|called|named|of|the|as|like|visited?|to) "
    rf"({_NAME_WORD}(?: (?:of |the |de )?{_NAME_WORD}){{0,3}})"
    r"(?=[.,;:!?)]|$| (?:and|or|in|at|on|is|was|are|were|to|for|with|from|by|has|had|who|which|that|but|when|where)\b)"
)
_NOT_NAMES = _words(
    "January February March April May June July August September October November December Monday Tuesday Wednesday "
    "Thursday Friday Saturday Sunday Internet English God Christmas Easter Thanksgiving"
)
_DEFINITION = re.compile(
    r"^((?:(?:The|A|An) )?[A-Za-z][\w'’-]*(?: [\w'’-]+){0,4}) (is|was|means|refers to|is known as|is called) (an?) "
)
_NO_SUBJECT = _words(
    "it this that there here he she they we you i what who which if when while these those how where why my our your "
    "his her their one all each another so but and or not as in at on for with also now then once yes no everything "
    "everyone nothing someone something first next although because since to by from even such"
)
_OPINIONS = _words(
    "good great nice little bit very really totally must lot few better best bad big perfect wonderful pretty much "
    "fun beautiful lovely relatively gorgeous real true matter way thing joke pain shame problem few huge decided fine "
    "terrible amazing solid decent fantastic excellent awesome"
)
_RELATION = re.compile(
    r"\b(?:(?:made|located|founded|built|owned|produced|designed|manufactured|invented|based|found|grown|served|"
    r"developed|published|written|created|powered|driven|assembled|topped|filled|stuffed|named|born|cooked|"
    r"raised|imported|supplied|equipped|fitted|mixed|covered|replaced) (?:in|by|from|with|of|for|on)|"
    r"(?:capital|home|birthplace|origin|founder|owner|author|director|king|city|town|president|maker|member|"
    r"producer|manufacturer|symptom|editor|chef|result|addition|removal) of) "
)
_NO_OBJECT = _words(
    "me it them him her us you this that these those his their your my our its myself yourself all one any some what "
    "how more most less each every many several such hand scratch"
)
_IMPERATIVES = _words(
    "add stir heat mix remove turn place check install pour cook bake combine cover drain fry roast simmer boil serve "
    "sprinkle spread cut slice chop fold whisk beat set put let bring reduce transfer return season toss press roll "
    "pull push lift loosen tighten unscrew disconnect connect replace clean wipe rinse apply open close start stop "
    "drive lower raise slide attach insert refill fill brush blend melt cool rest chill freeze grill saute sear soak "
    "flip squeeze shake strain peel preheat spoon top knead wrap arrange dip garnish"
)
_IMPERATIVE = re.compile(rf"(?:{'|'.join(sorted(_IMPERATIVES))})\b", re.IGNORECASE)
_THEN = re.compile(rf"\b(then|next|finally|afterwards?),? (?={_IMPERATIVE.pattern})", re.IGNORECASE)
_STEP_NUMBER = re.compile(r"(?:step )?\d{1,2}[.):] ", re.IGNORECASE)
_PHRASE = re.compile(r"[A-Za-z][\w'’-]*(?: [\w'’-]+)*")
_STOPS = _words(
    "that which who whom whose with for when where and or but because from to in on at by as so if since than while "
    "is are was were has have had will can could may would should also into after before until using made used i we "
    "you it he she they"
)
_CLAUSE_STOPS = _words("and or but until for so then while when before after if because which that")
_NO_ENDS = _words(
    "the a an of in on to with your their its his her my our this these any some each over about between not"
)
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\"”'’][.!?]) +(?=[A-Z\"“(])")


def spans(page: str, number: int) -> Iterator[Span]:
    """All that the patterns find on a page; `number` is the page's."""
    step_before = ""
    for line in map(str.strip, page.splitlines()):
        mark = _STEP_NUMBER.match(line)
        body = line[mark.end() :] if mark else line
        step = _IMPERATIVE.match(body)
        answer = _phrase(body, _CLAUSE_STOPS, 3, 8) if step and step_before else None
        if answer and SHORTEST_PROMPT <= len(step_before) <= LONGEST_PROMPT:
            prompt = f"{step_before} {mark[0] if mark else ''}".strip()
            yield Span("procedure", "step", prompt, answer, line, number)
        before = step_before
        for sentence in _SENTENCE_END.split(body):
            if 20 <= len(sentence) <= 400 and _is_prose(sentence):
                yield from _spans_of_sentence(sentence, before, number)
            before = sentence
        step_before = (line if len(line) <= LONGEST_PROMPT else before) if step else ""


def _is_prose(sentence: str) -> bool:
    """Neither a heading nor a menu: most of its words are small."""
    words = sentence.split()
    return len(words) >= 4 and sum(word[0].islower() for word in words) >= 0.5 * len(words)


def _spans_of_sentence(sentence: str, before: str, page: int) -> Iterator[Span]:
    for type_, kind, at, answer in _gaps(sentence):
        prompt = sentence[:at].rstrip()
        if len(prompt) < CONTEXT_BELOW and len(before) <= LONGEST_PROMPT:
            prompt = f"{before} {prompt}".lstrip()
        if SHORTEST_PROMPT <= len(prompt) <= 2 * LONGEST_PROMPT and answer.lower() not in prompt.lower():
            yield Span(type_, kind, prompt, answer, sentence, page)


def _gaps(sentence: str) -> Iterator[tuple[Type, str, int, str]]:
    """Type, kind, place and text of the answers that a sentence holds."""
    for match in _NUMBER.finditer(sentence):
        if not _RANGE.search(sentence[: match.start()]):
            yield "number", f"{match[2].rstrip('s')} {len(match[1])}", match.start(), match[0]
    for match in _YEAR.finditer(sentence):
        if sentence[: match.start()].split()[-1].lower() in _AFTER_DATE:
            yield "number", "date", match.start(), match[1]
    for match in _ENTITY.finditer(sentence):
        if _NOT_NAMES.isdisjoint(match[2].split()):
            yield "entity", f"{match[1]} {len(match[2].split()) > 1}", match.start(2), match[2]
    if defined := _DEFINITION.match(sentence):
        answer = _phrase(sentence[defined.end() :], _STOPS, 2, 6)
        if (
            answer
            and _NO_SUBJECT.isdisjoint(defined[1].lower().split())
            and _OPINIONS.isdisjoint(answer.lower().split())
        ):
            yield "definition", f"{defined[2]} {defined[3]}", defined.end(), answer
    for match in _RELATION.finditer(sentence):
        if (answer := _phrase(sentence[match.end() :], _STOPS, 1, 4)) and _NO_OBJECT.isdisjoint(answer.lower().split()):
            first = answer.split()[0]
            shape = first if first in ("the", "a", "an") else f"{first[0].isupper()} {len(answer.split()) > 1}"
            yield "relation", f"{match[0].split()[-1]} {shape}", match.end(), answer
    for match in _THEN.finditer(sentence):
        if answer := _phrase(sentence[match.end() :], _CLAUSE_STOPS, 3, 8):
            yield "procedure", match[1].lower(), match.end(), answer


def _phrase(text: str, stops: frozenset[str], fewest: int, most: int) -> str | None:
    """The words of `text` up to a mark or one of `stops` (no "rubbed" before "with"); None for too few or many."""
    match = _PHRASE.match(text)
    words = match[0].split() if match else []
    end = next((i for i, word in enumerate(words) if i and word.lower() in stops), len(words))
    while 2 < end < len(words) and words[end - 1].endswith("ed"):
        end -= 1
    whole = fewest <= end <= most and words[0].lower() not in stops and words[end - 1].lower() not in _NO_ENDS
    return " ".join(words[:end]) if whole else None


def mined_items(corpus: str, train: Iterable[str], val: Iterable[str], tokenizer: Tokenizer, each: int) -> list[Item]:
    """At most `each` items of a type: memorised from the pages of `train`, held out from those of `val`.

    A sentence gives one item, and one that stands in both splits none that is held out. Nothing is paraphrased: that
    would take a model. The draw depends on the pages and on `corpus` alone.
    """
    found = {"memorised": _found(train), "held_out": _found(val)}
    known = {span.sentence for span in found["memorised"]}
    found["held_out"] = [span for span in found["held_out"] if span.sentence not in known]
    counts = Counter(span.answer for group in found.values() for span in group)
    return [
        item for form, group in found.items() for item in _Miner(corpus, form, group, counts, tokenizer).items(each)
    ]


def _found(texts: Iterable[str]) -> list[Span]:
    """The spans of the first MINED_CHARACTERS of pages; of a sentence that stands there again, the first time only."""
    result: list[Span] = []
    seen: set[str] = set()
    size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size > MINED_CHARACTERS:
            break
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
            if self._fits(other, span) and not any(_overlap(other, one) for one in chosen):
                chosen.append(other)
                if len(chosen) == 3:
                    return chosen
        return []

    def _fits(self, other: str, span: Span) -> bool:
        common, rare = self.counts[span.answer], self.counts[other]
        return (
            max(common, rare) <= 4 * min(common, rare)
            and span.page not in self.pages[other]
            and not _overlap(other, span.answer)
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


def _overlap(one: str, other: str) -> bool:
    """Whether one answer is, or holds, the other."""
    return one.lower() in other.lower() or other.lower() in one.lower()
