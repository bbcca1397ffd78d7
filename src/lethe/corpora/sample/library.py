"""The word lists, sentences and page kinds, read from the YAML files beside this module."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lethe.config import read_yaml

WORDS = Path(__file__).parent / "words"
DOMAINS = ("food", "automotive", "other")

Lists = dict[str, list[str]]


class Kind(NamedTuple):
    """A kind of page ("recipe"): how often it is written, where a site keeps it, and what it is made of."""

    share: int
    language: str
    section: list[str]
    titles: list[str]
    layouts: list[str]
    pools: Lists


@cache
def planted() -> dict[str, Any]:
    """What the planted pages are made of: `planted.yaml`."""
    data = read_yaml(WORDS / "planted.yaml").data
    return {**data, "mixed_titles": data["mixed_titles"].splitlines()}


@cache
def host_words(domain: str) -> dict[str, list[str]]:
    """The two halves of a domain's host names: `first` and `second`."""
    return read_yaml(WORDS / domain / "words.yaml").data["hosts"]


@cache
def words() -> Lists:
    """Every list that all pages share, by name."""
    files = [WORDS / "everyday.yaml", *(WORDS / domain / "words.yaml" for domain in DOMAINS)]
    return {name: entries for file in files for name, entries in _lists(read_yaml(file).data["words"]).items()}


@cache
def kinds(folder: str) -> list[Kind]:
    """The page kinds of a domain, or of `foreign`, in the order of their file names."""
    files = sorted(file for file in (WORDS / folder).glob("*.yaml") if file.stem != "words")
    return [_kind(dict(read_yaml(file).data)) for file in files]


def _kind(data: dict[str, Any]) -> Kind:
    fields = {name: data.pop(name) for name in ("share", "section", "layouts")}
    return Kind(
        **fields, language=data.pop("language", "en"), titles=data.pop("titles").splitlines(), pools=_lists(data)
    )


def _lists(data: dict[str, Any]) -> Lists:
    """A list is written as a YAML list of words, or as a text block with a template on each line."""
    return {name: value.splitlines() if isinstance(value, str) else value for name, value in data.items()}
