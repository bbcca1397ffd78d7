"""What belongs to a domain, in one YAML: `configs/corpora/NAME.yaml`. A third domain is a third file, and no code."""

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from lethe.config import Config, named, read_yaml, validate
from lethe.corpora.words import MAX_BYTES


def _checked(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if not re.fullmatch(r"[a-z0-9]+(?: [a-z0-9]+)*", word):
            raise ValueError(f"found {word!r}; allowed: lower-case ASCII letters and digits, words apart by one space")
        if max(map(len, word.split())) > MAX_BYTES - len("es"):
            raise ValueError(f"found {word!r}; allowed: words of up to {MAX_BYTES - len('es')} letters")
        if words.count(word) > 1:
            raise ValueError(f"found {word!r} more than once; allowed: each word once")
    return words


Words = Annotated[tuple[str, ...], AfterValidator(_checked)]


class AnyCorpus(Config):
    """What every corpus says of itself, wherever its documents come from."""

    description: str = Field(min_length=1, description="what is in it and what is not, for people")
    tokens: int | None = Field(None, ge=1, description="budget, in the source's own token_count; null keeps all")
    val_share: float = Field(0.05, gt=0, lt=1, description="of the tokens")
    max_overlap: float | None = Field(
        None, ge=0, lt=1, description="share of val's word 13-grams that may stand in a train split of any corpus"
    )


class CorpusConfig(AnyCorpus):
    """A domain: what it is, its words, and which pages of it are good enough.

    A word or phrase stands for itself and its plural in -s or -es, as whole words and in any case; whatever is no
    letter or digit may stand between the words of a phrase ("driver s license" matches "driver's license"). A word of
    `url_words` must begin or end where letters do ("food" in foodtalk.com and seafood.org, not in seafoods.org).
    """

    words: Words = Field(min_length=1)
    against: Words = Field((), description="words of neighbouring subjects; each hit takes back one of `words`")
    url_words: Words = ()
    min_score: float = Field(gt=0, description="see lethe.corpora.score.score")
    min_distinct_words: int = Field(3, ge=1)
    scan_score: float | None = Field(
        None,
        gt=0,
        description="from which score on a scan keeps a page, so that min_score and min_distinct_words can be moved "
        "without reading the source again; null: min_score",
    )
    distinct_bonus: float = Field(0, ge=0, description="added to the score for each different word, up to ten")
    url_bonus: float = Field(15, ge=0, description="added to the score for each word in the address, up to two")
    languages: tuple[str, ...] = Field(("en",), min_length=1)
    min_language_score: float = Field(0.5, ge=0, le=1)
    min_characters: int = Field(200, ge=1)
    max_characters: int = Field(100_000, ge=1)
    min_letters: float = Field(0.5, ge=0, le=1, description="share of letters in what is not white space")
    max_repeated_lines: float = Field(0.3, ge=0, le=1, description="share of lines that stood on the page before")
    max_host_share: float | None = Field(
        None, gt=0, le=1, description="of the corpus's tokens that one host may have; the hash of a page decides"
    )

    @model_validator(mode="after")
    def _some_length(self) -> Self:
        if self.min_characters > self.max_characters:
            raise ValueError(
                f"min_characters: found {self.min_characters}; allowed: up to max_characters, {self.max_characters}"
            )
        return self

    @model_validator(mode="after")
    def _scan_keeps_enough(self) -> Self:
        if self.scan_score is not None and self.scan_score > self.min_score:
            raise ValueError(
                f"scan_score: found {self.scan_score}; allowed: null, or up to min_score, {self.min_score}"
            )
        return self

    @property
    def scan(self) -> dict[str, Any]:
        """What decides which pages a scan keeps, and as what: all else can be moved without reading the source."""
        cut = {"min_score", "min_distinct_words", "scan_score", "max_host_share", *AnyCorpus.model_fields}
        return {"floor": self.floor, "fewest_words": self.fewest_words, **self.model_dump(mode="json", exclude=cut)}

    @property
    def floor(self) -> float:
        """The score from which on a scan keeps a page."""
        return self.min_score if self.scan_score is None else self.scan_score

    @property
    def fewest_words(self) -> int:
        """How many different words a page that a scan keeps has at least."""
        return self.min_distinct_words if self.scan_score is None else 1


def load_corpus_config(name: str) -> CorpusConfig:
    """The domain `configs/corpora/NAME.yaml`.

    Raises ValueError naming the corpora there are for an unknown name, UserError for a file that is wrong.
    """
    return validate(CorpusConfig, read_yaml(named("corpora", name)))
