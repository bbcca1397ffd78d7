"""Facts about invented foods and cars: what the pages state, and what a probe may ask."""

import random
from collections import defaultdict
from functools import cache
from typing import Any, NamedTuple

from lethe.config import read_yaml
from lethe.corpora.sample.library import WORDS

TYPES = ("entity", "number", "definition", "relation", "procedure")


class Fact(NamedTuple):
    """One fact; every statement (on pages) and paraphrase (on no page) ends with the answer.

    A cloze prompt is what stands before the answer; the distractors are answers of the same domain and type.
    """

    id: str
    domain: str
    type: str
    subject: str
    answer: str
    distractors: list[str]
    statements: list[str]
    paraphrases: list[str]


@cache
def facts() -> list[Fact]:
    """Every fact, in the order of `facts.yaml`; always the same."""
    data = read_yaml(WORDS / "facts.yaml").data
    return [
        _fact(domain, type_, subject, data[domain][type_])
        for domain in data
        for type_ in TYPES
        for subject in data[domain][type_]["answers"]
    ]


@cache
def facts_by_subject(domain: str) -> dict[str, list[Fact]]:
    """The facts of a domain under the food or car that they are about."""
    by_subject = defaultdict(list)
    for fact in facts():
        if fact.domain == domain:
            by_subject[fact.subject].append(fact)
    return dict(by_subject)


def _fact(domain: str, type_: str, subject: str, family: dict[str, Any]) -> Fact:
    name = f"{domain}-{type_}-{subject.lower().replace(' ', '-')}"
    answer = family["answers"][subject]
    others = [other for other in family["answers"].values() if other not in (answer, subject)]
    told = {
        form: [template.format(subject=subject, answer=answer) for template in family[form]]
        for form in ("statements", "paraphrases")
    }
    return Fact(name, domain, type_, subject, answer, random.Random(name).sample(others, 3), **told)
