"""YAML in, validated models out, or every problem at once.

A problem names the file, the line, the field, what was found and what is allowed. YAML is read by the rules of
YAML 1.2: `no` is a name, `1e-3` a number, `010` and `1:30` are text; a duplicate key, an alias and a Python tag
are refused, so nothing of a file is lost, expanded or executed.
"""

import difflib
import json
import re
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MAX_YAML_BYTES = 1_000_000

Location = tuple[str | int, ...]


class UserError(Exception):
    """What a user can mend: a program prints it without a traceback and exits with 2."""


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


C = TypeVar("C", bound=BaseModel)


class RawConfig(NamedTuple):
    """A configuration as read: its data, and where each field stands."""

    name: str
    data: dict[str, Any]
    lines: dict[Location, int]
    overridden: frozenset[Location] = frozenset()


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias (*) is not allowed", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    # A leading zero (010) is neither YAML 1.2's decimal nor anybody's intention: it stays text.
    _regexp = re.compile(r"(?!^[-+]?0[0-9])" + _pattern if _tag in ("int", "float") else _pattern)
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _regexp, _first)


def read_yaml(path: str | Path) -> RawConfig:
    """Read one YAML mapping; raises UserError naming file and line for anything else."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise UserError(f"{path}: found {path.stat().st_size:,} bytes; allowed: at most {MAX_YAML_BYTES:,}")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> RawConfig:
    """As `read_yaml`, from text; `name` stands for the file in messages."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Location, int] = {}
        _note_lines(node, (), lines)
        data = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UserError(f"{name}{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{name}: not valid YAML: nested too deep") from None
    finally:
        loader.dispose()
    if not isinstance(data, dict) or not data:
        found = "nothing" if not data else f"a {type(data).__name__}"
        raise UserError(f"{name}: found {found}; allowed: a mapping of fields to values")
    return RawConfig(name, data, lines)


def _note_lines(node: yaml.Node | None, location: Location, lines: dict[Location, int]) -> None:
    """Fill `lines` with the 1-based line of every field, refusing duplicate keys on the way."""
    if node is None:
        return
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _note_lines(item, (*location, i), lines)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark)
            seen.add(key.value)
            lines[(*location, key.value)] = key.start_mark.line + 1
            _note_lines(value, (*location, key.value), lines)


def override(raw: RawConfig, overrides: list[str]) -> RawConfig:
    """Apply `a.b=VALUE`; VALUE is a YAML scalar or list or, where it is neither, the text as it is."""
    data: dict[str, Any] = json.loads(json.dumps(raw.data))
    changed = set(raw.overridden)
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise UserError(f"command line: found {text!r}; allowed: FIELD=VALUE or FIELD.FIELD=VALUE")
        keys = path.split(".")
        here: Any = data
        for key in keys[:-1]:
            here = here.setdefault(key, {})
            if not isinstance(here, dict):
                raise UserError(f"command line: {path}: {key!r} holds {here!r}, which has no fields")
        try:
            here[keys[-1]] = yaml.load(value, _Loader)  # noqa: S506 - a SafeLoader
        except yaml.YAMLError:
            here[keys[-1]] = value
        changed.add(tuple(keys))
    return raw._replace(data=data, overridden=frozenset(changed))


def validate(model: type[C], raw: RawConfig) -> C:
    """The validated model, or one UserError that lists its every problem."""
    if raw.lines and (odd := list(_odd_numbers(raw, raw.data, ()))):  # written by people, not by a program
        raise UserError("\n".join(odd))
    try:
        return model.model_validate(raw.data)
    except ValidationError as error:
        errors: list[dict[str, Any]] = [dict(e) for e in error.errors(include_url=False)]
        inner = {e["loc"][:-1] for e in errors}
        # A list whose items are all wrong is not too short as well.
        problems = [_describe(model, raw, e) for e in errors if e["type"] != "too_short" or e["loc"] not in inner]
        raise UserError("\n".join(dict.fromkeys(problems))) from None


def _odd_numbers(raw: RawConfig, value: Any, location: Location) -> typing.Iterator[str]:
    """Problems of numbers that would pass as others: `010` is 8, 10 or text, and past 64 bits most of what reads it."""
    here = f"{_where(raw, location)}: {_field(location)}: found {value!r}; allowed:"
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _odd_numbers(raw, inner, (*location, key))
    elif isinstance(value, str) and re.fullmatch(r"[-+]?0[0-9][0-9_]*", value):
        yield f"{here} a number without a leading zero"
    elif isinstance(value, int) and abs(value) >= 2**63:
        yield f"{here} less than 2^63"


def _field(location: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _describe(model: type[BaseModel], raw: RawConfig, error: dict[str, Any]) -> str:
    location: Location = tuple(error["loc"])
    field, found, allowed = _field(location), _shorten(error["input"]), error["msg"].removeprefix("Value error, ")
    allowed = allowed.removeprefix("Input ").removeprefix("should be ").replace("a valid tuple", "a list")
    if error["type"] == "extra_forbidden":
        fields = list(_model_at(model, location[:-1]).model_fields)
        hint = _did_you_mean(str(location[-1]), fields)
        return f"{_where(raw, location)}: unknown field {field!r}{hint}; allowed: {', '.join(fields)}"
    if error["type"] == "missing":
        return f"{_where(raw, location)}: {field}: missing; it must be given"
    if error["type"] == "value_error" and not field:
        return f"{_where(raw, location)}: {allowed}"
    if "; allowed:" in allowed:
        return f"{_where(raw, location)}: {field}: {allowed}"
    return f"{_where(raw, location)}: {field}: found {found}; allowed: {allowed}"


def _did_you_mean(found: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(found, allowed, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _where(raw: RawConfig, location: Location) -> str:
    if any(location[: len(changed)] == changed for changed in raw.overridden):
        return f"command line, over {raw.name}"
    while location and location not in raw.lines:
        location = location[:-1]
    return f"{raw.name}:{raw.lines[location]}" if location in raw.lines else raw.name


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel]:
    """The model class that the field at `location` is validated by."""
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = next((t for t in _types_in(annotation) if issubclass(t, BaseModel)), None)
        model = inner or model
    return model


def _types_in(annotation: Any) -> typing.Iterator[type]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _types_in(argument)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def named(kind: str, name: str) -> Path:
    """The project's own YAML of a `kind` ("corpora", "models"); raises ValueError naming those there are."""
    there = sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))
    if name not in there:
        hint = _did_you_mean(name, there)
        raise ValueError(f"found {name!r}{hint}; allowed: {', '.join(there)} (configs/{kind}/NAME.yaml)")
    return CONFIGS / kind / f"{name}.yaml"
