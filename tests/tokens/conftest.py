"""Corpora as the extraction leaves them, made of given texts, and a tokenizer of such text."""

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from lethe.files import write_json
from lethe.tokens.tokenizer import load_tokenizer, save_tokenizer, train

FOOD = ["onion", "garlic", "butter", "flour", "simmer", "oven", "roast"]
CARS = ["engine", "brake", "piston", "clutch", "torque", "gasket"]
WORDS = [*FOOD, *CARS, "the", "a", "and", "then", "with", "some", "42", "é", "don't", "<eos>"]


def _documents(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=40)) + "." for _ in range(count)]


@pytest.fixture(scope="session")
def documents() -> Callable[[int, int], list[str]]:
    """`documents(seed, count)`, texts of 41 pieces that hold the literal `<eos>` too."""
    return _documents


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    save_tokenizer(train(iter(_documents(0, 50)), 340), path)
    return path


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_path)


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Path]:
    """`make_corpus(name, train=[texts of a part, ...], val=[...])` -> the finished corpus's folder."""

    def make(name: str, train: list[list[str | None]], val: list[list[str | None]]) -> Path:
        folder, files = tmp_path / "data" / "corpora" / f"{name}-0123abcd", {}
        for split, parts in (("train", train), ("val", val)):
            (folder / split).mkdir(parents=True)
            for number, texts in enumerate(parts):
                path = folder / split / f"part-{number:05}.parquet"
                pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path)
                files[f"{split}/{path.name}"] = {"bytes": path.stat().st_size}
        write_json(folder / "manifest.json", {"fingerprint": "0123abcd", "files": files})
        return folder

    return make


@pytest.fixture
def corpora(make_corpus: Callable[..., Path]) -> dict[str, Path]:
    return {
        "food": make_corpus("food", [_documents(1, 40), _documents(2, 30)], [_documents(3, 10)]),
        "automotive": make_corpus("automotive", [_documents(4, 60), ["", None]], [_documents(5, 10)]),
    }
