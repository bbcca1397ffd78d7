"""What is done against forgetting besides interleaving: one file each, found by its kind's name."""

import importlib
import inspect
import pkgutil
from typing import Any

from pydantic import ValidationError, model_validator

from lethe.config import Config
from lethe.interventions.interface import Intervention


def kinds() -> list[str]:
    """The kinds there are: the modules of this package that hold an intervention."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "interface")


def find(kind: str) -> type[Intervention]:
    """The class of a kind; raises ValueError naming those there are."""
    if kind not in kinds():
        raise ValueError(f"found {kind!r}; allowed: {', '.join(kinds())}")
    module = importlib.import_module(f"{__name__}.{kind}")
    return next(
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Intervention) and member.__module__ == module.__name__
    )


class InterventionConfig(Config):
    """A kind and its parameters; in YAML they stand side by side: `{kind: l2_sp, strength: 10}`."""

    kind: str
    parameters: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "kind" not in value:
            return value
        given = value.get("parameters", {name: v for name, v in value.items() if name != "kind"})
        kind = find(value["kind"])
        try:
            parameters = kind.Parameters.model_validate(given)
        except ValidationError as error:
            raise ValueError("; ".join(_describe(kind, dict(e)) for e in error.errors())) from None
        return {"kind": value["kind"], "parameters": parameters.model_dump(mode="json")}

    def make(self, *arguments: Any) -> Intervention:
        """The intervention itself, for one stage."""
        kind = find(self.kind)
        return kind(kind.Parameters.model_validate(self.parameters), *arguments)


def _describe(kind: type[Intervention], error: dict[str, Any]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{name}: missing; it must be given"
    if error["type"] == "extra_forbidden":
        return f"unknown field {name!r}; allowed: {', '.join(['kind', *kind.Parameters.model_fields])}"
    allowed = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{name}: found {error['input']!r}; allowed: {allowed}"
