"""Token shards made of given texts, by the project's own code: real files of any vocabulary size."""

import random
import shutil
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from lethe.corpora.parquet import PartWriter
from lethe.files import write_json
from lethe.tokens.shards import PARTIAL, TokenData, encode_part, encoded_path, join_parts
from lethe.tokens.tokenizer import load_tokenizer, save_tokenizer, train

CORPUS = "food"
WORDS = 40_000
DOCUMENTS = {"train": 400, "val": 40}
WORDS_A_DOCUMENT = 500


def write_tokens(root: Path, vocab_size: int) -> TokenData:
    """One corpus of 200,000 words whose frequencies follow Zipf's law, and a tokenizer of `vocab_size` ids.

    `vocab_size` is a multiple of 64, so that no model pads it, and at most 32,768, which the text can fill.
    """
    rng = random.Random(0)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(4, 9))) for _ in range(WORDS)]
    weights = [1 / (rank + 10) for rank in range(WORDS)]
    texts = {
        split: [" ".join(rng.choices(words, weights, k=WORDS_A_DOCUMENT)) for _ in range(count)]
        for split, count in DOCUMENTS.items()
    }
    data = write_shards(root, {CORPUS: texts}, vocab_size, [*texts["train"], " ".join(words)])
    assert data.vocab_size == vocab_size, f"the text fills {data.vocab_size} ids of {vocab_size}"
    return data


def write_shards(
    root: Path,
    corpora: Mapping[str, Mapping[str, list[str]]],
    vocab_size: int,
    trained_on: Iterable[str],
    source: str = "elsewhere",
) -> TokenData:
    """Corpora of these documents (by corpus and split), a tokenizer trained on some text, and their shards."""
    name = f"bpe{vocab_size}-00000000"
    tokenizer, shards = root / "data" / "tokenizers" / name, root / "data" / "tokens" / name
    save_tokenizer(train(iter(trained_on), vocab_size), tokenizer / "tokenizer.json")
    encoder = load_tokenizer(tokenizer / "tokenizer.json")
    for corpus, splits in corpora.items():
        folder = root / "data" / "corpora" / f"{corpus}-00000000"
        files: dict[str, dict[str, Any]] = {}
        for split, documents in splits.items():
            table = pa.table({"text": pa.array(documents, pa.string())})
            writer = PartWriter(folder / split, table.schema)
            writer.write(table)
            files |= writer.close(folder)
        write_json(folder / "manifest.json", {"files": files, "fingerprint": "00000000", "source": {"given": source}})
        for file in files:
            encode_part(folder / file, encoder, encoded_path(shards, corpus, file.split("/")[0], folder / file))
        join_parts(shards, corpus, folder, tokenizer)
    shutil.rmtree(shards / PARTIAL)
    return TokenData(shards)
