"""Where on a page a probe may ask: spans that a sentence could be cut before, found by patterns. Imports no torch."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from lethe.evaluation.items import Type

SHORTEST_PROMPT, LONGEST_PROMPT = 24, 240  # characters
CONTEXT_BELOW = 80  # characters: a shorter prompt gets the sentence before it


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
        for sentence in sentences(body):
            if 20 <= len(sentence) <= 400 and is_prose(sentence):
                yield from _spans_of_sentence(sentence, before, number)
            before = sentence
        step_before = (line if len(line) <= LONGEST_PROMPT else before) if step else ""


def sentences(line: str) -> list[str]:
    """A line cut where sentences seem to end."""
    return _SENTENCE_END.split(line)


def is_prose(sentence: str) -> bool:
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
