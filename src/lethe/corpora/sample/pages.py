"""Writes the text of a page."""

import random
from typing import NamedTuple

from lethe.corpora.sample.facts import Fact, facts_by_subject
from lethe.corpora.sample.library import DOMAINS, Lists, kinds, words
from lethe.corpora.sample.voice import Voice, capitalised, sentence

LEADS = ["", "", "", "", "Worth knowing: ", "Remember: ", "For the record: "]
SUBJECTS_PER_PAGE = 3
# Of five filler sentences on a page of one domain, two are of the other domain: where none is, the loss on a
# forgotten domain grows past that of a uniform guess.
FILLERS = {
    "food": ["<+everyday>", "<+automotive_guest>"] * 2 + ["<+everyday>"],
    "automotive": ["<+everyday>", "<+food_guest>"] * 2 + ["<+everyday>"],
    "other": ["<+everyday>"] * 10 + ["<+automotive_guest>", "<+food_guest>"],
}


class Page(NamedTuple):
    """A page before it has an address."""

    language: str
    section: str
    title: str
    text: str


def write_page(domain: str, rng: random.Random) -> Page:
    """A page of one of the DOMAINS, or of `foreign`: of a random kind, and with facts where the domain has any."""
    all_kinds = kinds(domain)
    kind = rng.choices(all_kinds, [kind.share for kind in all_kinds])[0]
    voice = Voice({**words(), **kind.pools, **_pools_of_page(domain, rng)}, rng)
    title = capitalised(voice.speak(rng.choice(kind.titles)))
    lines = [title]
    for layout_line in rng.choice(kind.layouts).splitlines():
        lines += _lines(voice, layout_line, rng)
    return Page(kind.language, rng.choice(kind.section), title, "\n".join(lines))


def _pools_of_page(domain: str, rng: random.Random) -> Lists:
    """The filler of a page and, about the subjects that were drawn for it, the facts."""
    if domain not in DOMAINS:
        return {}
    by_subject = facts_by_subject(domain)
    if not by_subject:
        return {"filler": FILLERS[domain]}
    subjects = rng.sample(list(by_subject), SUBJECTS_PER_PAGE)
    told = [_stated(fact, rng) for subject in subjects for fact in by_subject[subject]]
    return {"filler": FILLERS[domain], "entity": subjects[:1], "fact": told}


def _stated(fact: Fact, rng: random.Random) -> str:
    return rng.choice(LEADS) + rng.choice(fact.statements)


def _lines(voice: Voice, layout_line: str, rng: random.Random) -> list[str]:
    """The lines of one paragraph: `= heading`, `- list`, `# steps`, `~ comments`, or plain prose."""
    mark, _, rest = layout_line.partition(" ")
    if mark == "=":
        return [capitalised(voice.speak(rest))]
    if mark not in ("-", "#", "~"):
        said = _said(voice, layout_line, rng)
        return [" ".join(sentence(text) for text in said)]
    said = _said(voice, rest, rng)
    if mark == "-":
        return [f"- {text}" for text in said]
    if mark == "#":
        return [f"{number}. {sentence(text)}" for number, text in enumerate(said, 1)]
    return [f"{voice.draw('name')}: {sentence(text)}" for text in said]


def _said(voice: Voice, pools: str, rng: random.Random) -> list[str]:
    """Entries of pools, as in `opening 2, fact 1-2, filler 1`: the first as it is, the others in random order."""
    said = []
    for item in pools.split(", "):
        pool, _, count = item.partition(" ")
        low, _, high = count.partition("-")
        said += [voice.draw(pool) for _ in range(rng.randint(int(low), int(high or low)))]
    others = said[1:]
    rng.shuffle(others)
    return said[:1] + others
