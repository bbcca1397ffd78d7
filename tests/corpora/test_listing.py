import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lethe.config import UserError
from lethe.corpora.listing import Facts, Listed, list_source, measure, plan, read_listing, read_survey
from lethe.corpora.prevalence import Share
from lethe.corpora.source import open_source

FILES = [Listed("a.parquet", 2_000_000_000, 1_000_000, 700_000_000), Listed("b.parquet", 5, 1_000, 300_000)]


def write_csv(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def storage(toy: Any, tmp_path: Path) -> Path:
    """A source of 400 pages of 50 tokens, a quarter of them about soup and an eighth about cars."""
    words = [toy.soup, toy.news, toy.news, toy.car, toy.soup, toy.news, toy.news, toy.news]
    toy.write(tmp_path / "pages" / "a.parquet", [toy.page(toy.text(words[i % 8], i), i) for i in range(400)])
    return tmp_path


def test_a_listing_in_either_form(tmp_path: Path) -> None:
    rows = [[f.name, f.bytes, f.rows, f.tokens] for f in FILES]
    names = ["name", "bytes", "rows", "tokens"]
    pq.write_table(pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in rows]), tmp_path / "l.parquet")
    assert read_listing(write_csv(tmp_path / "l.csv", [names, *rows])) == FILES
    assert read_listing(tmp_path / "l.parquet") == FILES
    without = read_listing(write_csv(tmp_path / "w.csv", [["rows", "name", "bytes"], [3, "x", 4]]))
    assert without == [Listed("x", 4, 3)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([["name", "rows"], ["a", 1]], "column bytes: missing (found: name, rows); allowed: a CSV"),
        ([["name", "bytes", "rows"]], "found no files"),
        ([["name", "bytes", "rows"], ["a", 1, 2], ["b", "many", 2]], "l.csv:3: bytes: found 'many'; allowed: a whole"),
        ([["name", "bytes", "rows"], ["a", 1, -2]], "l.csv:2: rows: found '-2'"),
        ([["name", "bytes", "rows"], ["a", 1]], "l.csv:2: rows: found None"),
        (
            [["name", "bytes", "rows"], ["a", 1, 2], ["a", 1, 2]],
            "l.csv:3: name: found 'a'; allowed: text that no other",
        ),
        ([["name", "bytes", "rows", "tokens"], ["a", 1, 2, "1.5"]], "l.csv:2: tokens: found '1.5'"),
    ],
)
def test_a_wrong_listing_is_refused_with_its_line(tmp_path: Path, rows: list[list[Any]], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        read_listing(write_csv(tmp_path / "l.csv", rows))


def test_a_listing_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a listing"):
        read_listing(tmp_path / "no.csv")


def test_what_is_not_known_is_said_and_not_invented(toy: Any) -> None:
    bare = [file._replace(tokens=None) for file in FILES]
    lines = plan(bare, toy.corpora, "x").splitlines()
    assert "2 files, 2,000,000,005 bytes, 1,001,000 rows" in lines[0]
    assert [line.split()[0] for line in lines if "not known: missing is" in line] == ["tokens", "soup", "car", "hours"]
    assert "1,000" not in "\n".join(lines[1:])


def test_the_plan_s_numbers_follow_from_the_facts(toy: Any) -> None:
    sample = Facts("S", {"soup": Share(0.1, 0.05, 0.2), "car": Share(0, 0, 0.01)}, 600.0, 3000.0, 2000.0)
    text = plan(FILES, toy.corpora, "x", None, sample)
    assert "700,300,000, as the listing says" in text
    assert "soup        70,030,000 tokens expected (35,015,000 to 140,060,000), 10.00% of the source's" in text
    assert "car         0 tokens expected (0 to 7,003,000)" in text
    # 1,000,000 rows of 3000 bytes are 24 units; 2 GB are 120 pieces of 16 MiB; the small file is one unit, one piece
    assert f"at least {1 + 3 * 24 + 120 + 1 + 3 + 1:,}," in text
    assert f"{1_001_000 / 2000 / 16 / 3600:,.2f} on 16 cores" in text
    survey = Facts("V", {"soup": Share(0.3, 0.3, 0.3), "car": Share(0, 0, 0)}, 700.0)
    text = plan([file._replace(tokens=None) for file in FILES], toy.corpora, "x", survey, sample)
    assert "700,700,000, at 700.0 a row of V" in text
    assert "soup        210,210,000 tokens" in text


def test_a_sample_is_measured(storage: Path, toy: Any) -> None:
    source = open_source("pages", storage)
    facts = measure(source, toy.corpora)
    assert facts.tokens_a_row == 50
    assert {name: found.value for name, found in facts.shares.items()} == {"soup": 0.25, "car": 0.125}
    for found in facts.shares.values():  # all pages were read, but they stand for others
        assert 0.001 < found.value - found.low < 0.1
        assert 0.001 < found.high - found.value < 0.1
    assert facts.rows_a_second is not None
    (listed,) = list_source(source)
    assert (listed.rows, listed.units, listed.bytes) == (400, 1, (storage / "pages" / "a.parquet").stat().st_size)


def test_a_survey_is_read(tmp_path: Path, toy: Any) -> None:
    domain = {"tokens": {"share": 0.04, "low": 0.03, "high": 0.05, "available": {}}}
    survey = {"source": {"rows": 10, "tokens": 6000}, "domains": {"soup": domain, "car": domain}}
    (tmp_path / "survey.json").write_text(json.dumps(survey))
    facts = read_survey(tmp_path / "survey.json", toy.corpora)
    assert facts == Facts(
        str(tmp_path / "survey.json"), {"soup": Share(0.04, 0.03, 0.05), "car": Share(0.04, 0.03, 0.05)}, 600
    )
    for wrong in ("[]", "{", json.dumps(survey | {"domains": {"soup": domain}})):
        (tmp_path / "survey.json").write_text(wrong)
        with pytest.raises(UserError, match=r"survey\.json: found no survey of soup, car"):
            read_survey(tmp_path / "survey.json", toy.corpora)
