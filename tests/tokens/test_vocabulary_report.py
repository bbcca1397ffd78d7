import json
from pathlib import Path
from typing import Any

import pytest

from lethe.model.build import build_model
from lethe.model.config import load_model_config
from lethe.tokens.analysis import make_tokenizer
from lethe.tokens.report import add_models, embedding_table, embeddings, recommend, table, write_report
from lethe.tokens.tokenizer import TokenizerConfig, padded


def rows(coverage: dict[int, tuple[float | None, ...]]) -> list[dict[str, Any]]:
    measured = {"bytes_per_token": 4.0, "fertility": 1.1, "used": 0.5, "rare": 0.2, "tokens": 1000}
    return [
        {
            "candidate": size,
            "vocab_size": size - 1,
            "corpus": corpus,
            "coverage": value,
            **measured,
            "bytes_per_token": 4 + size / 1000,
            "val": {"coverage": None, **measured},
        }
        for size, values in coverage.items()
        for corpus, value in zip(("food", "cars", "law"), values, strict=False)
    ]


def test_the_smallest_size_near_the_largest_is_recommended() -> None:
    found = recommend(rows({500: (0.90, 0.95), 1000: (0.96, 0.97), 2000: (0.97, 0.985)}))
    assert found["vocab_size"] == 1000
    assert found["reason"] == (
        "1,000 ids, which cover 96.0% of food, 97.0% of cars: the smallest size within 2 points of 2,000 ids on every "
        "corpus (1.5 points short on cars; those would make the text 16.7% shorter and the embedding 2 times larger); "
        "500 ids are 7.0 points short on food"
    )


def test_every_corpus_counts_in_a_recommendation() -> None:
    found = recommend(rows({500: (0.96, 0.97, 0.70), 1000: (0.97, 0.98, 0.80)}))
    assert found["vocab_size"] == 1000
    assert found["reason"].endswith("a larger one may serve better; 500 ids are 10.0 points short on law")
    found = recommend(rows({500: (0.96, 0.97, 0.80), 1000: (0.97, 0.98, 0.80)}))
    assert found["vocab_size"] == 500
    assert found["reason"].endswith("; a smaller one may do")


def test_nothing_held_out_gives_no_recommendation() -> None:
    found = recommend(rows({500: (0.9, None), 1000: (0.9, None)}))
    assert found == {"vocab_size": None, "reason": "no size: no words of cars are held out to measure on"}


@pytest.mark.parametrize("name", ["toy", "tiny"])
def test_embeddings_are_those_of_the_model(name: str) -> None:
    config = load_model_config(name)
    for size, found in zip((500, 1000), embeddings(config, rows({500: (0.9,), 1000: (0.9,)})), strict=True):
        model = build_model(config, padded(size - 1))
        matrix = next(p for p in model.parameters() if p.shape == (padded(size - 1), config.d_model))
        total = sum(parameter.numel() for parameter in model.parameters())
        assert found == {
            "candidate": size,
            "parameters": total,
            "embedding": matrix.numel(),
            "share": matrix.numel() / total,
        }


def test_tables_are_aligned() -> None:
    found = rows({500: (0.9, None), 1000: (0.95, 0.9)})
    lines = table(found).splitlines()
    assert " ".join(lines[0].split()) == (
        "candidate vocabulary corpus coverage bytes/token tokens/word used rare coverage of val"
    )
    assert lines[1].split() == ["500", "499", "food", "90.0%", "4.50", "1.100", "50.0%", "20.0%", "-"]
    assert lines[2].split()[2:4] == ["cars", "-"]
    models = {name: embeddings(load_model_config(name), found) for name in ("toy", "tiny")}
    for text in (table(found), embedding_table(models)):
        assert len({len(line) for line in text.splitlines()}) == 1
    assert embedding_table(models).splitlines()[0].split() == ["embedding", "500", "1,000"]


def test_models_are_added_to_a_report(corpora: dict[str, Path], tmp_path: Path) -> None:
    folder = make_tokenizer(corpora, TokenizerConfig(vocab_size=330), tmp_path)
    add_models(folder, {"toy": load_model_config("toy")})
    report = add_models(folder, {"tiny": load_model_config("tiny")})
    assert sorted(report["models"]) == ["tiny", "toy"]
    assert json.loads((folder / "report.json").read_text()) == report
    written = (folder / "report.json").stat().st_mtime_ns
    assert add_models(folder, {"toy": load_model_config("toy")}) == report
    assert (folder / "report.json").stat().st_mtime_ns == written


def test_the_picture_stands_alone_and_draws_every_line(tmp_path: Path, browser, asked) -> None:
    analysis = rows({500: (0.9, 0.8, 0.8), 1000: (0.95, 0.9, 0.9), 2000: (0.96, 0.9, 0.9)})
    models = {"toy": embeddings(load_model_config("toy"), analysis)}
    found = recommend(analysis)
    write_report(
        tmp_path, {"config": {"vocab_size": 1000}, "analysis": analysis, "recommendation": found, "models": models}
    )
    page = (tmp_path / "report.html").as_uri()
    browser.get(page)
    traces = browser.execute_script("return document.querySelectorAll('.scatterlayer .trace').length")
    text = " ".join(browser.execute_script("return document.querySelector('.infolayer').textContent").split())
    assert browser.get_log("browser") == []
    assert traces == 3 * 6 + 1
    for words in ("Vocabulary of 1,000 ids", "recommended: 1,000 ids", "bytes per token", "food", "law", "model toy"):
        assert words in text
    assert asked(browser) == [page]
