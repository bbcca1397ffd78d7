import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.config import UserError
from lethe.corpora.prevalence import Block, Sample, draw, share, take, wilson
from lethe.corpora.source import Source, SourceFile, Unit, open_source


def block(rows: int, taken: int) -> Block:
    return Block(Unit("0", "a", "file:///a", 1, "", "", 0, 0, rows), taken)


def sampled(member: list[np.ndarray], size: list[np.ndarray], rows: list[int], groups: int) -> Sample:
    """A sample of blocks of so many rows, of which the given ones were taken."""
    return Sample(
        blocks=tuple(block(whole, len(part)) for whole, part in zip(rows, member, strict=True)),
        groups=groups,
        group=np.repeat(np.arange(len(member)), [len(part) for part in member]),
        tokens=np.concatenate(size),
        corpus=np.where(np.concatenate(member), "soup", "").astype(object),
        site=np.full(sum(len(part) for part in member), "", object),
        rejects={"soup": Counter()},
    )


@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=8), min_size=1, max_size=6))
def test_where_all_is_read_the_share_is_exact(groups: list[list[tuple[bool, int]]]) -> None:
    member = [np.array([inside for inside, _ in group]) for group in groups]
    size = [np.array([float(count) for _, count in group]) for group in groups]
    sample = sampled(member, size, [len(group) for group in groups], len(groups))
    rows = [row for group in groups for row in group]
    ones = np.ones(len(rows))
    expected = sum(inside for inside, _ in rows) / len(rows)
    assert share(sample, sample.corpus == "soup", ones) == pytest.approx((expected, expected, expected))
    total = sum(count for _, count in rows)
    found = share(sample, sample.corpus == "soup", sample.tokens)
    part = sum(count for inside, count in rows if inside)
    assert found == (pytest.approx((part / total,) * 3) if total else (0, 0, 1))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("drawn", "taken"), [(30, 40), (120, 15), (15, 10)])
def test_the_interval_covers_the_truth_as_often_as_it_says(drawn: int, taken: int, weighted: bool) -> None:
    """Row groups that differ much, as pages of a crawl do; an interval that took rows as independent would fail."""
    random = np.random.default_rng(1)
    rows = random.integers(40, 80, 120)
    member = [random.random(count) < random.beta(0.6, 4) for count in rows]
    size = [random.lognormal(0, 1, count) for count in rows]
    weights = size if weighted else [np.ones(count) for count in rows]
    truth = sum((w * m).sum() for w, m in zip(weights, member, strict=True)) / sum(w.sum() for w in weights)
    covered, values, naive = 0, [], 0
    for _ in range(400):
        chosen = random.choice(120, drawn, replace=False)
        inside = [random.choice(rows[i], taken, replace=False) for i in chosen]
        parts = [[group[i][rows_] for i, rows_ in zip(chosen, inside, strict=True)] for group in (member, weights)]
        sample = sampled(parts[0], parts[1], [int(rows[i]) for i in chosen], 120)
        found = share(sample, sample.corpus == "soup", sample.tokens)
        covered += found.low <= truth <= found.high
        values.append(found.value)
        naive += wilson(found.value, drawn * taken).low <= truth <= wilson(found.value, drawn * taken).high
    assert 0.9 * 400 <= covered <= 0.985 * 400
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / 20 + 0.004
    if drawn == 30:
        assert naive < 0.9 * 400


def test_a_domain_that_was_not_seen_may_still_be_there() -> None:
    none = sampled([np.zeros(50, bool)] * 30, [np.ones(50)] * 30, [100] * 30, 1000)
    found = share(none, none.corpus == "soup", np.ones(1500))
    assert found.value == found.low == 0
    assert 1 / 1500 < found.high < 5 / 1500


@pytest.mark.parametrize(
    ("value", "count", "low", "high"), [(0.5, 10, 0.2366, 0.7634), (0.1, 50, 0.0435, 0.2136), (0, 20, 0, 0.1611)]
)
def test_wilson_against_the_roots_of_its_equation(value: float, count: int, low: float, high: float) -> None:
    found = wilson(value, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)
    for bound in (found.low, found.high):
        assert (value - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / count, abs=1e-12)


UNEVEN = st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=30), min_size=1, max_size=4)
EVEN = st.builds(lambda count, files, groups: [[count] * groups] * files, *[st.integers(1, n) for n in (3000, 4, 30)])
SIZES = UNEVEN | EVEN


@settings(max_examples=50)
@given(SIZES.filter(lambda files: any(map(any, files))), st.integers(1, 20_000))
def test_a_draw_is_large_enough_and_of_many_row_groups(files: list[list[int]], rows: int) -> None:
    listed = tuple(
        SourceFile(f"{i}.parquet", f"file:///{i}.parquet", 1, str(i), tuple((count, 10 * count) for count in counts))
        for i, counts in enumerate(files)
    )
    source = Source("given", listed)
    blocks, groups = draw(source, rows)
    assert groups == sum(count > 0 for counts in files for count in counts)
    assert sum(each.taken for each in blocks) >= min(rows, source.rows) or len(blocks) == groups
    if len({count for counts in files for count in counts}) == 1:
        assert len(blocks) >= min(groups, rows, 10)
    places = {(each.unit.name, each.unit.first) for each in blocks}
    assert len(places) == len(blocks)
    for each in blocks:
        assert each.unit.rows == files[int(each.unit.name[0])][each.unit.first]
        assert 1 <= each.taken <= each.unit.rows
        assert each.unit.first == each.unit.last


@pytest.fixture
def storage(toy: Any, tmp_path: Path) -> Path:
    for i in range(3):
        rows = toy.pages(toy.soup, range(100 * i, 100 * i + 30)) + toy.pages(
            toy.news, range(100 * i + 30, 100 * i + 80)
        )
        rows += [row | {"id": None, "url": None} for row in toy.pages(toy.car, range(100 * i + 80, 100 * i + 90))]
        toy.write(tmp_path / "pages" / f"{i}.parquet", rows)
    return tmp_path


def test_a_whole_source_is_judged_row_for_row(storage: Path, toy: Any) -> None:
    sample = take(open_source("pages", storage), toy.corpora, 10_000)
    assert Counter(sample.corpus.tolist()) == {"soup": 90, "": 150, "car": 30}
    assert {len(sample.blocks), sample.groups} == {27}
    assert set(sample.site[sample.corpus == "soup"].tolist()) == {
        f"site{100 * i + j}.example" for i in range(3) for j in range(30)
    }
    assert set(sample.site[sample.corpus == "car"].tolist()) == {""}
    assert sample.tokens.sum() == 270 * 50
    assert sample.rejects == {"soup": Counter(off_topic=180), "car": Counter(off_topic=240)}
    assert share(sample, sample.corpus == "soup", sample.tokens).value == pytest.approx(1 / 3)


def test_a_part_is_the_same_part_wherever_the_source_lies(storage: Path, tmp_path: Path, toy: Any) -> None:
    shutil.copytree(storage / "pages", tmp_path / "copy")
    here, there = (take(open_source(name, storage), toy.corpora, 60) for name in ("pages", "copy"))
    assert 60 <= len(here.group) < 90
    assert all(block.taken < block.unit.rows for block in here.blocks)
    assert (here.corpus == there.corpus).all()
    assert (here.group == there.group).all()
    assert math.isclose(here.weight.sum(), sum(block.unit.rows for block in here.blocks))


def test_a_damaged_row_group_is_refused_or_left_out(storage: Path, toy: Any) -> None:
    path = storage / "pages" / "1.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 300 + whole[304:])
    source = open_source("pages", storage)
    with pytest.raises(UserError, match=r"1\.parquet: row groups 0 to 0 cannot be decoded"):
        take(source, toy.corpora)
    sample = take(Source(source.given, source.files, "skip"), toy.corpora)
    assert (len(sample.blocks), sample.groups, len(sample.group)) == (26, 27, 260)
