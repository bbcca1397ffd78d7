"""The corpora that a YAML names: their own files in configs/corpora, with what is set anew."""

from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints

from lethe.config import named, read_yaml
from lethe.corpora.dataset import DatasetCorpus
from lethe.corpora.domains import CorpusConfig

NAME = r"^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Corpus = CorpusConfig | DatasetCorpus


def _one(value: Any) -> Any:
    """A corpus is a data set where it has the field `dataset`, else a domain."""
    if not isinstance(value, dict):
        return value
    return (DatasetCorpus if "dataset" in value else CorpusConfig).model_validate(value)


def _all(value: Any) -> Any:
    """`[food, automotive]`, or `{food: {tokens: 5000000}, ...}` to set fields of configs/corpora/*.yaml anew."""
    changes = value if isinstance(value, dict) else {name: {} for name in names(value)}
    if len(changes) < len(value):
        raise ValueError(f"found {', '.join(value)}; allowed: each corpus once")
    return {name: _merged(read_yaml(named("corpora", name)).data, new or {}) for name, new in changes.items()}


def _merged(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `fields`, and so within what are mappings in both."""
    inner = {
        name: _merged(fields[name], new)
        for name, new in changes.items()
        if isinstance(new, dict) and isinstance(fields.get(name), dict)
    }
    return fields | changes | inner


def names(value: Any) -> list[str]:
    """A list of names as it is; ValueError for anything else."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"found {value!r}; allowed: a list of names")
    return value


def by_name(data: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose `corpora` are `{NAME: {}}` where they were a list of names, so that an override of the
    form corpora.NAME.FIELD=VALUE finds them."""
    corpora = data.get("corpora")
    if isinstance(corpora, list) and all(isinstance(name, str) for name in corpora) and len({*corpora}) == len(corpora):
        return data | {"corpora": {name: {} for name in corpora}}
    return data


Corpora = Annotated[dict[Name, Annotated[Corpus, BeforeValidator(_one)]], BeforeValidator(_all)]
