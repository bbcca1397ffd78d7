"""Fixtures of several rooms: small token shards, made once a run by the project's own code."""

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from lethe.corpora.parquet import PartWriter
from lethe.files import write_json
from lethe.tokens.shards import PARTIAL, TokenData, encode_part, encoded_path, join_parts
from lethe.tokens.tokenizer import load_tokenizer, save_tokenizer, train

WORDS = {
    "food": ["onion", "garlic", "butter", "flour", "simmer", "stir", "oven", "salt", "bread", "soup"],
    "automotive": ["engine", "brake", "piston", "clutch", "torque", "wheel", "sedan", "mileage", "gasket", "tyre"],
}
GLUE = ["the", "a", "and", "then", "with", "some", "very", "often", "because", "it", "was", "we", "they", "good", "new"]


def toy_text(corpus: str, seed: int) -> str:
    rng = random.Random(f"{corpus}/{seed}")
    return " ".join(rng.choice(WORDS[corpus] if rng.random() < 0.5 else GLUE) for _ in range(120)) + "."


def write_toy_tokens(root: Path, documents: int = 120) -> Path:
    """Two corpora with words of their own and shared glue, a tokenizer over both, and their shards."""
    texts = {
        (corpus, split): [toy_text(corpus, first + i) for i in range(count)]
        for corpus in WORDS
        for split, first, count in (("train", 0, documents), ("val", 10_000, documents // 6))
    }
    tokenizers = root / "data" / "tokenizers" / "bpe320-00000000"
    every = (text for group in texts.values() for text in group)
    save_tokenizer(train(every, 320), tokenizers / "tokenizer.json")
    tokenizer = load_tokenizer(tokenizers / "tokenizer.json")
    shards = root / "data" / "tokens" / "bpe320-00000000"
    for corpus in WORDS:
        folder = root / "data" / "corpora" / f"{corpus}-00000000"
        files = {}
        for split in ("train", "val"):
            table = pa.table({"text": texts[corpus, split]})
            writer = PartWriter(folder / split, table.schema)
            writer.write(table)
            files |= writer.close(folder)
        write_json(folder / "manifest.json", {"files": files, "fingerprint": "00000000"})
        for name in files:
            encode_part(folder / name, tokenizer, encoded_path(shards, corpus, name.split("/")[0], folder / name))
        join_parts(shards, corpus, folder, tokenizers)
    shutil.rmtree(shards / PARTIAL)
    return shards


@pytest.fixture(scope="session")
def toy_tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    return TokenData(write_toy_tokens(tmp_path_factory.mktemp("toy")))
