import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import Extraction, scan_unit
from lethe.corpora.merge import merge
from lethe.corpora.select import PAGES
from lethe.corpora.source import open_source

WORDS = [f"word{i}" for i in range(3000)]
Rows = list[dict[str, Any]]


def extract(storage: Path, rows: Rows, corpora: dict[str, CorpusConfig], toy: Any, files: int = 1) -> Extraction:
    for i in range(files):
        toy.write(storage / "pages" / f"{i}.parquet", rows[i::files])
    extraction = Extraction(open_source("pages", storage), corpora, storage)
    for unit in extraction.missing_units():
        scan_unit(unit, corpora, extraction.scan_folder)
    merge(extraction)
    return extraction


def manifest(extraction: Extraction, name: str) -> dict[str, Any]:
    return json.loads((extraction.folders[name] / "manifest.json").read_text())


def split_of(extraction: Extraction, name: str) -> dict[str, dict[str, Any]]:
    """For each split its rows by id."""
    tables = {part: pq.read_table(extraction.folders[name] / part) for part in ("train", "val")}
    return {part: {row["id"]: row for row in table.to_pylist()} for part, table in tables.items()}


def text(subject: tuple[str, ...], rng: random.Random, length: int = 120) -> str:
    return " ".join(rng.choice(subject) if i % 4 == 0 else rng.choice(WORDS) for i in range(length))


def near_copy(page: str, rng: random.Random) -> str:
    words = page.split()
    words[rng.randrange(40, 80)] = rng.choice(WORDS)
    return " ".join(words)


@pytest.fixture
def rows(toy: Any) -> Rows:
    rng = random.Random(0)
    return [toy.page(text((toy.soup, toy.car)[i % 2], rng), i) for i in range(200)]


def test_copies_of_held_out_pages_are_found_wherever_they_lie(tmp_path: Path, toy: Any, rows: Rows) -> None:
    rng = random.Random(1)
    first = extract(tmp_path / "first", rows, toy.corpora, toy)
    held = list(split_of(first, "soup")["val"].values())[:6]
    planted = [
        toy.page(near_copy(row["text"], rng) if i % 2 else row["text"] + "!", 900 + i) for i, row in enumerate(held)
    ]
    again = extract(tmp_path / "again", rows + planted, toy.corpora, toy)
    assert manifest(first, "soup")["rejects"].get("duplicate", 0) == 0
    assert manifest(again, "soup")["rejects"]["duplicate"] == manifest(again, "soup")["rejects"]["near_duplicate"] == 3
    assert manifest(again, "soup")["near_duplicates"] == {"clusters": 3, "pages": 6}
    ids = {id_ for part in split_of(again, "soup").values() for id_ in part}
    for page, row in zip(planted, held, strict=True):
        assert (page["id"] in ids) != (row["id"] in ids)


def test_a_page_in_both_corpora_stays_in_that_of_its_better_score(tmp_path: Path, toy: Any) -> None:
    """Texts of which the address decides the corpus, here once in each."""
    common = {"description": "d", "words": toy.soup, "min_score": 300, "min_distinct_words": 2, "min_characters": 20}
    corpora = {
        name: CorpusConfig(url_words=(name,), url_bonus=1000, val_share=0.4, **common) for name in ("left", "right")
    }
    rng = random.Random(2)
    texts = [text(toy.soup, rng) for _ in range(30)]
    rows = [toy.page(page, i, url=f"https://{i}.example/left") for i, page in enumerate(texts[:20])]
    copies = [page.upper() for page in texts[:10]] + [near_copy(page, rng) for page in texts[10:20]] + texts[20:]
    copies = [page + " soup" * 8 if i % 2 else page for i, page in enumerate(copies)]  # a better score
    rows += [toy.page(page, 50 + i, url=f"https://{i}.example/right") for i, page in enumerate(copies)]
    extraction = extract(tmp_path, rows, corpora, toy)
    left, right = ({i for part in split_of(extraction, name).values() for i in part} for name in ("left", "right"))
    for i in range(20):
        assert (f"<urn:uuid:{i}>" in left) != (f"<urn:uuid:{50 + i}>" in right)
    assert all(f"<urn:uuid:{50 + i}>" in right for i in range(1, 20, 2))
    for name, found in (("left", 20 - len(left)), ("right", 30 - len(right))):
        rejects = manifest(extraction, name)["rejects"]
        assert rejects.get("duplicate", 0) + rejects["near_duplicate"] == found


def test_files_listed_in_another_way_give_the_same_pages_and_splits(tmp_path: Path, toy: Any, rows: Rows) -> None:
    rng = random.Random(3)
    rows += [row | {"id": f"copy of {row['id']}", "url": "https://copies.example/"} for row in rows[:20]]
    rows += [toy.page(near_copy(row["text"], rng), 900 + i) for i, row in enumerate(rows[20:60])]
    limits = {"tokens": 3000, "max_host_share": 0.1}
    corpora = {name: corpus.model_copy(update=limits) for name, corpus in toy.corpora.items()}
    one = extract(tmp_path / "one", rows, corpora, toy)
    other = extract(tmp_path / "other", rng.sample(rows, len(rows)), corpora, toy, files=4)
    for name in corpora:
        assert split_of(one, name) == split_of(other, name)
        assert manifest(one, name)["rejects"] == manifest(other, name)["rejects"]
        assert manifest(one, name)["rejects"]["over_budget"] > 0
        assert manifest(one, name)["overlap"] == manifest(other, name)["overlap"]


def test_hosts_in_both_splits_are_named(tmp_path: Path, toy: Any, rows: Rows) -> None:
    rows = [row | {"url": f"https://{'big' if i % 20 else f'small{i}'}.example/"} for i, row in enumerate(rows)]
    extraction = extract(tmp_path, rows, toy.corpora, toy)
    for name in toy.corpora:
        splits = split_of(extraction, name)
        tokens = {p: sum(r["token_count"] for r in s.values() if r["host"] == "big.example") for p, s in splits.items()}
        assert manifest(extraction, name)["split"] == "cluster"
        assert manifest(extraction, name)["shared_hosts"] == {"count": 1, "largest": {"big.example": tokens}}


def test_a_capped_host_keeps_its_share(tmp_path: Path, toy: Any, rows: Rows) -> None:
    rows = [row | {"url": f"https://{'big' if i % 4 < 2 else f'small{i}'}.example/"} for i, row in enumerate(rows)]
    corpora = {name: corpus.model_copy(update={"max_host_share": 0.1}) for name, corpus in toy.corpora.items()}
    extraction = extract(tmp_path, rows, corpora, toy)
    kept = [row for split in split_of(extraction, "soup").values() for row in split.values()]
    big = sum(row["host"] == "big.example" for row in kept)
    assert 1 <= big <= 0.1 * len(kept)
    assert len(kept) - big == 50
    assert manifest(extraction, "soup")["rejects"]["host_share"] == 50 - big
    assert manifest(extraction, "soup")["shared_hosts"] == {"count": 0, "largest": {}}


def with_a_passage_of_val_in_train(storage: Path, toy: Any, rows: Rows) -> Rows:
    """Rows of which one of cars holds a held-out page of soup, too little of it to be a near duplicate."""
    first = extract(storage, rows, toy.corpora, toy)
    assert manifest(first, "soup")["overlap"] == {"soup": 0, "car": 0}
    held = next(iter(split_of(first, "soup")["val"].values()))
    target = next(iter(split_of(first, "car")["train"]))
    long = text(toy.car, random.Random(4), 1500)
    return [row | {"text": long + " " + held["text"]} if row["id"] == target else row for row in rows]


def test_overlap_is_reported_and_refused_above_its_bound(tmp_path: Path, toy: Any, rows: Rows) -> None:
    corpora = {**toy.corpora, "car": toy.corpora["car"].model_copy(update={"max_characters": 20_000})}
    rows = with_a_passage_of_val_in_train(tmp_path / "first", toy, rows)
    reported = extract(tmp_path / "reported", rows, corpora, toy)
    share = manifest(reported, "soup")["overlap"]["car"]
    val = split_of(reported, "soup")["val"]
    assert share == pytest.approx((120 - 12) / sum(len(row["text"].split()) - 12 for row in val.values()))
    assert manifest(reported, "soup")["overlap"]["soup"] == 0

    bounded = {name: corpus.model_copy(update={"max_overlap": 0.01}) for name, corpus in corpora.items()}
    with pytest.raises(UserError, match=rf"corpus soup: max_overlap: found {share:.3%} of .* train split of car; allo"):
        extract(tmp_path / "refused", rows, bounded, toy)
    left = list((tmp_path / "refused" / "data" / "corpora").iterdir())
    assert [folder.name.startswith("units-") for folder in left] == [True]
    loose = {name: corpus.model_copy(update={"max_overlap": 0.9}) for name, corpus in corpora.items()}
    assert extract(tmp_path / "allowed", rows, loose, toy).is_finished


def test_pages_come_as_they_were_with_host_and_scores(tmp_path: Path, toy: Any, rows: Rows) -> None:
    extraction = extract(tmp_path, rows, toy.corpora, toy)
    given = {row["id"]: row for row in rows}
    for name in toy.corpora:
        for split in split_of(extraction, name).values():
            table = pa.Table.from_pylist(list(split.values()), PAGES)
            assert all(given[id_] == {k: row[k] for k in given[id_]} for id_, row in split.items())
            assert table["score"].null_count == table["host"].null_count == 0
