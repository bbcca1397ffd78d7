"""A folder of token shards made of random words, by the project's own code: real files of any vocabulary size."""

import random
import shutil
import string
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
    name = f"bpe{vocab_size}-00000000"
    tokenizer = root / "data" / "tokenizers" / name
    save_tokenizer(train(iter([*texts["train"], " ".join(words)]), vocab_size), tokenizer / "tokenizer.json")
    shards = root / "data" / "tokens" / name
    _encode(root / "data" / "corpora" / f"{CORPUS}-00000000", texts, tokenizer, shards)
    data = TokenData(shards)
    assert data.vocab_size == vocab_size, f"the text fills {data.vocab_size} ids of {vocab_size}"
    return data


def _encode(folder: Path, texts: dict[str, list[str]], tokenizer: Path, shards: Path) -> None:
    files: dict[str, dict[str, Any]] = {}
    for split, documents in texts.items():
        table = pa.table({"text": documents})
        writer = PartWriter(folder / split, table.schema)
        writer.write(table)
        files |= writer.close(folder)
    write_json(folder / "manifest.json", {"files": files, "fingerprint": "00000000"})
    encoder = load_tokenizer(tokenizer / "tokenizer.json")
    for name in files:
        encode_part(folder / name, encoder, encoded_path(shards, CORPUS, name.split("/")[0], folder / name))
    join_parts(shards, CORPUS, folder, tokenizer)
    shutil.rmtree(shards / PARTIAL)
