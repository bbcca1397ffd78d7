"""A configuration is right, or every problem of it is named with file, line, field, found and allowed."""

from pathlib import Path

import pytest
from pydantic import Field

from lethe.config import Config, UserError, named, override, parse_yaml, read_yaml, validate


class Inner(Config):
    size: int = Field(gt=0)
    label: str = "x"


class Outer(Config):
    inner: Inner
    rates: list[float] = []


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        validate(Outer, override(parse_yaml(text, "f.yaml"), list(overrides)))
    return str(caught.value).splitlines()


def test_numbers_and_names_are_read_as_people_mean_them():
    text = "a: 1e-3\nb: no\nc: 010\nd: 1:30\ne: [1, 2.5, .5, true, null, 150_000]\nf: -3\ng: .inf\n"
    data = parse_yaml(text, "f").data
    assert data["a"] == 0.001
    assert data["b"] == "no"
    assert (data["c"], data["d"]) == ("010", "1:30")
    assert data["e"] == [1, 2.5, 0.5, True, None, 150_000]
    assert data["f"] == -3
    assert data["g"] == float("inf")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "f.yaml:2:1: not valid YAML: duplicate key 'a'"),
        ("a: &x 1\nb: *x", "f.yaml:2:4: not valid YAML: an alias (*) is not allowed"),
        ("a: [1", "f.yaml:1:6: not valid YAML"),
        ("- 1", "f.yaml: found a list; allowed: a mapping"),
        ("# nothing", "f.yaml: found nothing; allowed: a mapping"),
        ("a: !!python/object/apply:os.getcwd []", "f.yaml:1:4: not valid YAML"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: not valid YAML"),
        ("[" * 3000, "f.yaml: not valid YAML"),
    ],
)
def test_what_is_not_one_plain_mapping_is_refused_by_line(text: str, message: str):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith(message)


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(UserError, match=f"{path}: cannot be read"):
            read_yaml(path)
    (tmp_path / "latin.yaml").write_bytes("a: \xe9".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_text("a: " + "x" * 1_000_001)
    with pytest.raises(UserError, match="allowed: at most 1,000,000"):
        read_yaml(tmp_path / "big.yaml")


def test_all_problems_come_at_once_with_their_lines():
    assert problems("rates: [1, x]\ninner:\n  size: -1\n  lable: y\nmore: 1\n") == [
        "f.yaml:3: inner.size: found -1; allowed: greater than 0",
        "f.yaml:4: unknown field 'inner.lable' (did you mean 'label'?); allowed: size, label",
        "f.yaml:1: rates[1]: found 'x'; allowed: a valid number, unable to parse string as a number",
        "f.yaml:5: unknown field 'more'; allowed: inner, rates",
    ]


def test_a_missing_field_is_named_where_it_belongs():
    assert problems("inner: {label: y}") == ["f.yaml:1: inner.size: missing; it must be given"]


def test_overrides_are_typed_by_yaml_and_blamed_in_messages():
    source = override(parse_yaml("inner: {size: 1}", "f.yaml"), ["inner.size=5", "rates=[1, 2e-3]", "inner.label=*.x"])
    assert validate(Outer, source) == Outer(inner=Inner(size=5, label="*.x"), rates=[1, 0.002])
    assert problems("inner: {size: 1}", "inner.size=big")[0].startswith(
        "command line, over f.yaml: inner.size: found 'big'"
    )
    with pytest.raises(UserError, match="allowed: FIELD=VALUE"):
        override(source, ["inner"])
    with pytest.raises(UserError, match="has no fields"):
        override(source, ["inner.size.deep=1"])


def test_an_override_leaves_the_file_as_read():
    source = parse_yaml("inner: {size: 1}", "f.yaml")
    override(source, ["inner.size=5"])
    assert source.data == {"inner": {"size": 1}}


def test_names_resolve_in_the_projects_configurations():
    assert named("models", "tiny").is_file()
    with pytest.raises(ValueError, match=r"found 'tinny' \(did you mean 'tiny'\?\); allowed: .*tiny"):
        named("models", "tinny")


def test_numbers_that_would_pass_as_others_are_refused():
    assert problems("inner: {size: 010}") == [
        "f.yaml:1: inner.size: found '010'; allowed: a number without a leading zero"
    ]
    assert problems("inner: {size: 1}", "inner.size=007")[0].startswith(
        "command line, over f.yaml: inner.size: found '007'"
    )
    assert problems(f"inner: {{size: {2**63}}}") == [f"f.yaml:1: inner.size: found {2**63}; allowed: less than 2^63"]
