import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lethe.corpora.domains import load_corpus_config
from lethe.corpora.index import INDEX, Index, index_unit
from lethe.corpora.prevalence import Block, Sample, take
from lethe.corpora.select import select
from lethe.corpora.source import Unit, open_source, read_pages
from lethe.corpora.survey import Plan, report
from lethe.corpora.survey_view import picture, table


def half_read() -> Sample:
    """Of 2 row groups with 10 rows each, 5 rows each: two of soup in the first, one in the second, one of car."""
    corpus = np.array(["soup", "soup", "", "", "", "soup", "car", "", "", ""], object)
    site = np.array(["a.example", "b.example", "", "", "", "a.example", "c.example", "", "", ""], object)
    return Sample(
        blocks=tuple(Block(Unit(str(i), "f", "file:///f", 1, "", "", i, i, 10), 5) for i in range(2)),
        groups=2,
        group=np.repeat([0, 1], 5),
        tokens=np.array([40.0, 20, 10, 10, 20, 20, 50, 10, 10, 10]),
        corpus=corpus,
        site=site,
        rejects={"soup": Counter(off_topic=7), "car": Counter(off_topic=8, too_short=1)},
    )


@pytest.fixture
def index_file(tmp_path: Path) -> Path:
    rows: list[dict[str, str | None]] = [{"registrable_domain": "a.example", "host": "x.a.example"}] * 4
    rows += [{"registrable_domain": None, "host": "c.example"}, {"registrable_domain": None, "host": None}]
    pq.write_table(pa.Table.from_pylist(rows, INDEX), tmp_path / "part-00000.parquet")
    return tmp_path / "part-00000.parquet"


@pytest.fixture
def made(toy: Any, index_file: Path) -> dict[str, Any]:
    corpora = {**toy.corpora, "car": toy.corpora["car"].model_copy(update={"tokens": 50})}
    plan = Plan({"small": 2, "large": 10}, {"soup": 96, "car": 100}, max_epochs=2)
    return report(half_read(), corpora, 20, 400, plan, [index_file])


def test_the_arithmetic(made: dict[str, Any]) -> None:
    """Worked by hand: soup has 3 of 10 rows and 80 of 200 tokens, car 1 and 50; a fifth is held out."""
    soup, car = made["domains"]["soup"], made["domains"]["car"]
    assert soup["documents"]["share"] == pytest.approx(0.3)
    assert soup["documents"]["available"]["value"] == 6
    assert soup["tokens"]["share"] == pytest.approx(0.4)
    assert soup["tokens"]["available"]["value"] == 160
    assert soup["train_tokens"]["value"] == 128
    assert car["tokens"]["available"]["value"] == 100
    assert car["train_tokens"]["value"] == 40, "the budget of 50, less a fifth"
    assert soup["sites"] == {
        "sampled": 2,
        "top": [
            {"site": "a.example", "share": pytest.approx(0.75), "source_documents": 4},
            {"site": "b.example", "share": pytest.approx(0.25), "source_documents": 0},
        ],
        "top_share": pytest.approx(1),
    }
    assert car["sites"]["top"] == [{"site": "c.example", "share": 1, "source_documents": 1}]
    assert car["rejects"] == {"off_topic": 8, "too_short": 1}
    small = made["models"]["small"]
    assert (small["parameters"], small["tokens"]) == (2, 40)
    assert small["scan"]["soup"]["tokens"] == math.ceil(40 / (0.8 * 0.4))
    assert small["scan"]["car"]["tokens"] == math.ceil(40 / (0.8 * 0.25))
    assert small["epochs"] == {"soup": pytest.approx(40 / 128), "car": pytest.approx(1)}
    assert made["binds"] == "car"
    assert made["plan"]["soup"]["verdict"] == "filled"
    assert made["plan"]["car"]["verdict"] == "short"
    assert made["plan"]["car"]["epochs"] == pytest.approx(2.5)


def test_intervals_enclose_and_a_longer_scan_belongs_to_the_lower_share(made: dict[str, Any]) -> None:
    for name, domain in made["domains"].items():
        for kind in ("documents", "tokens"):
            assert 0 <= domain[kind]["low"] < domain[kind]["share"] < domain[kind]["high"] <= 1
        for model in made["models"].values():
            scan = model["scan"][name]
            assert scan["low"] < scan["tokens"] < scan["high"]
            assert scan["high"] == math.ceil(model["tokens"] / (0.8 * domain["tokens"]["low"]))


def test_more_epochs_than_one_are_allowed_or_not(toy: Any, index_file: Path) -> None:
    verdicts = {}
    for allowed in (1, 3):
        plan = Plan({"small": 2}, {"soup": 300}, allowed)
        verdicts[allowed] = report(half_read(), toy.corpora, 20, 400, plan, [index_file])["plan"]["soup"]["verdict"]
    assert verdicts == {1: "short", 3: "epochs"}


def test_a_domain_that_was_not_seen_binds_and_has_no_scan(toy: Any, index_file: Path) -> None:
    sample = half_read()
    sample.corpus[sample.corpus == "car"] = ""
    made = report(sample, toy.corpora, 20, 400, Plan({"small": 2}, {"car": 100}, 1), [index_file])
    assert made["binds"] == "car"
    assert made["models"]["small"]["scan"]["car"]["tokens"] is None
    assert made["models"]["small"]["scan"]["car"]["low"] > 0, "the interval ends above 0"
    assert made["plan"]["car"] | {"scan": None} == {"tokens": 100, "scan": None, "epochs": None, "verdict": "short"}
    json.dumps(made, allow_nan=False)
    assert "none in sight" in table(made)
    assert picture(made)


def test_the_table_says_what_can_be_filled(made: dict[str, Any]) -> None:
    text = table(made)
    assert "20 rows, 400 tokens; sampled 10 rows of 2 of 2 row groups" in text
    assert re.search(r"soup +30\.00% \(", text)
    assert "car binds" in text
    assert "soup: 96 of 128 training tokens: can be filled (0.75 epochs)" in text
    assert "car: 100 of 40 training tokens: CANNOT BE FILLED: needs 2.50 epochs, stage.max_epochs allows 2" in text
    assert max(map(len, text.splitlines())) <= 180


def test_the_picture_is_one_file_with_all_its_charts(made: dict[str, Any]) -> None:
    page = picture(made)
    assert "a.example" in page
    assert "4 of the source" in page
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="http', page)


def test_the_sample_is_estimated_within_its_intervals(sample_storage: Path) -> None:
    """Against the corpus that a full scan by the same rules finds."""
    corpora = {name: load_corpus_config(name) for name in ("food", "automotive")}
    source = open_source("sample", sample_storage)
    found: Counter[str] = Counter()
    for unit in source.units:
        for pages in read_pages(unit):
            found.update(select(pages, corpora)[0]["corpus"].to_pylist())
    index = Index(source, sample_storage)
    for unit in index.missing_units():
        index_unit(unit, index.folder)
    index.finish()
    counts = (index.manifest or {})["counts"]
    sample = take(source, corpora, 600)
    assert len(sample.group) < counts["rows"] / 2
    made = report(sample, corpora, counts["rows"], counts["tokens"], Plan({}, {}, 1), index.files())
    for name, domain in made["domains"].items():
        available = domain["documents"]["available"]
        assert available["low"] <= found[name] <= available["high"]
        assert available["high"] < 2 * available["low"]
