"""What goes into which data set, on a made-up folder of labelled pages."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.labelled import LABELS, cut, main
from lethe.config import UserError
from lethe.corpora.dataset import DatasetCorpus, open_dataset
from lethe.corpora.domains import load_corpus_config
from lethe.corpora.schema import FINEWEB
from lethe.corpora.score import score

PLAIN = "The council met on Monday and put off what it had meant to say about the new library until the spring. " * 4
COOKING = "Bake the bread with butter, flour and sugar, then serve the soup and the salad with cheese and wine. " * 4
CARS = "The dealer replaced the engine, the brake pads and the tires of the car under its warranty and recall. " * 4
NEAR_COOKING = COOKING[: len(COOKING) // 4] + PLAIN * 3

# id, text, domain, source, ambiguous
PAGES = [
    ("wiki", PLAIN, "other", "wikipedia-en", False),
    ("web", PLAIN, "other", "weborganizer-cc", False),
    ("web-doubtful", PLAIN, "other", "weborganizer-cc", True),
    ("web-of-food", PLAIN, "food", "weborganizer-cc", False),
    ("web-that-cooks", COOKING, "other", "weborganizer-cc", False),
    ("web-near-cooking", NEAR_COOKING, "other", "weborganizer-cc", False),
    ("web-that-drives", CARS, "other", "weborganizer-cc", False),
    ("novel", PLAIN, "other", "gutenberg-motoring", True),
    ("handbook", CARS, "automotive", "gutenberg-motoring", True),
    ("recipe", COOKING, "food", "recipes-json", False),
    ("unlabelled", PLAIN, None, None, None),
    ("web-last", PLAIN, "other", "weborganizer-cc", False),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pages in two files, 100 tokens each; labels in another order."""
    rows = [
        {"text": text, "id": page, "url": f"https://example.com/{number}", "language": "en", "language_score": 0.9}
        | {"token_count": 100}
        for number, (page, text, *_) in enumerate(PAGES)
    ]
    for number, part in enumerate((rows[:5], rows[5:])):
        pq.write_table(pa.Table.from_pylist(part, FINEWEB), tmp_path / f"pages-{number}.parquet")
    labels = [
        {"id": page, "domain": domain, "source": source, "ambiguous": ambiguous}
        for page, _, domain, source, ambiguous in reversed(PAGES)
        if domain
    ]
    (tmp_path / LABELS).parent.mkdir()
    pq.write_table(pa.Table.from_pylist(labels), tmp_path / LABELS)
    return tmp_path


def test_labels_and_rules_decide(folder: Path) -> None:
    found = {name: table["id"].to_pylist() for name, table in cut(folder, 1_000_000).items()}
    assert found == {
        "web": ["web", "web-last"],
        "fiction": ["novel"],
        "other": ["wiki", "web", "web-that-cooks", "web-near-cooking", "web-that-drives", "web-last"],
    }


def test_the_page_near_cooking_is_one_that_a_scan_keeps_and_the_rules_do_not_choose() -> None:
    food = load_corpus_config("food")
    (scores,) = score(pa.table({"text": [NEAR_COOKING], "url": ["https://example.com"]}), [food])
    assert food.floor < scores["score"][0].as_py() < food.min_score


@pytest.mark.parametrize(("tokens", "pages"), [(100, 1), (101, 2), (200, 2)])
def test_other_ends_with_the_page_that_fills_it(tokens: int, pages: int, folder: Path) -> None:
    found = cut(folder, tokens)
    assert found["other"].num_rows == pages
    assert found["web"].num_rows == 2


def test_the_program_writes_data_sets_that_a_corpus_can_be_made_of(folder: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "once", tmp_path / "twice"]
    assert [main([str(folder), str(out)]) for out in outs] == [0, 0]
    for name in ("web", "fiction", "other"):
        first, second = (out / f"{name}.parquet" for out in outs)
        assert first.read_bytes() == second.read_bytes()
        corpus = DatasetCorpus(description=name, dataset={"path": f"once/{name}.parquet"})
        (rows,) = open_dataset(name, corpus, tmp_path).open_part(0).iter(100)
        assert rows["text"].to_pylist() == pq.read_table(first)["text"].to_pylist()


def test_a_folder_without_labels_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / LABELS).unlink()
    with pytest.raises(UserError, match=r"dev-labels\.parquet.*allowed: Parquet with id, domain, source, ambiguous"):
        main([str(folder), str(tmp_path / "out")])
