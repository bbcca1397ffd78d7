"""A knowledge probe: a question in four choices, of a corpus or of none."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from lethe.config import Config

NEUTRAL = "neutral"  # stands where the name of a corpus does, of items about none

Type = Literal["entity", "number", "definition", "relation", "procedure", "word"]
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


def is_rival(other: str, answer: str, counts: Mapping[str, int]) -> bool:
    """Whether one may stand beside the answer: neither holds the other, or is over four times as frequent."""
    common, rare = counts[answer], counts[other]
    return max(common, rare) <= 4 * min(common, rare) and not overlap(other, answer)


def overlap(one: str, other: str) -> bool:
    """Whether one answer is, or holds, the other."""
    return one.lower() in other.lower() or other.lower() in one.lower()
