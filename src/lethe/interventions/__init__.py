"""What is done against forgetting besides interleaving: one file each, found by its kind's name."""

import importlib
import inspect
import json
import pkgutil
from functools import cache, cached_property
from typing import Any

from pydantic import ValidationError, model_validator

from lethe.config import Config
from lethe.interventions.interface import Cost, Intervention
from lethe.model.config import ModelConfig
from lethe.model.cost import Growth


def kinds() -> list[str]:
    """The kinds there are: the modules of this package that hold an intervention."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"derived", "interface"})


@cache
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

    @cached_property
    def _text(self) -> str:
        return f"{self.kind} {json.dumps(self.parameters, sort_keys=True)}"

    def __hash__(self) -> int:
        return hash(self._text)

    @cached_property
    def typed(self) -> Config:
        """The parameters as their kind's own type."""
        return find(self.kind).Parameters.model_validate(self.parameters)

    def cost(self) -> Cost:
        """What it needs and costs in one stage."""
        return find(self.kind).cost(self.typed)

    def growth(self, model: ModelConfig, vocab_size: int) -> Growth:
        """What one stage adds to a model."""
        return find(self.kind).growth(self.typed, model, vocab_size)

    @property
    def may_begin_anew(self) -> bool:
        """Whether a stage may be rolled back to its start, and what was measured until then set apart."""
        return find(self.kind).rolls_back is not Intervention.rolls_back

    def make(self, *arguments: Any) -> Intervention:
        """The intervention itself, for one stage."""
        return find(self.kind)(self.typed, *arguments)


PLAIN = InterventionConfig(kind="none")


def _describe(kind: type[Intervention], error: dict[str, Any]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{name}: missing; it must be given"
    if error["type"] == "extra_forbidden":
        return f"unknown field {name!r}; allowed: {', '.join(['kind', *kind.Parameters.model_fields])}"
    allowed = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{name}: found {error['input']!r}; allowed: {allowed}"
