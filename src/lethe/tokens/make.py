"""The token shards of corpora, made where they are missing; in this process, or however units are run."""

import os
import shutil
from pathlib import Path

from filelock import FileLock

from lethe.files import write_json
from lethe.progress import say
from lethe.tokens.encode import encoders
from lethe.tokens.meta import SPLITS
from lethe.tokens.shards import (
    PARTIAL,
    encode_part,
    encoded_path,
    is_encoded,
    is_finished,
    is_joined,
    join_parts,
    token_dtype,
    tokens_folder,
)
from lethe.tokens.tokenizer import TokenizerConfig, finished_tokenizer, load_tokenizer, parts
from lethe.units import Each, Row, in_turn


def make_tokens(corpora: dict[str, Path], config: TokenizerConfig, storage: Path, each: Each = in_turn) -> Path:
    """The folder of the token shards of these corpora (names and their folders), made if it is not finished.

    The same corpora and configuration give the same bytes, whatever the workers. A second program on the same
    storage waits for the first. Raises UserError for a corpus without text and for a tokenizer that was altered.
    """
    root = tokens_folder(corpora, config, storage)
    if root and is_finished(root, corpora):
        return root
    (storage / "data").mkdir(parents=True, exist_ok=True)
    with FileLock(storage / "data" / "tokenize.lock"):
        tokenizer = finished_tokenizer(corpora, config, storage) or _make_tokenizer(corpora, config, storage)
        root = tokens_folder(corpora, config, storage)
        assert root is not None
        if not is_finished(root, corpora):
            _make_shards(root, corpora, tokenizer, each)
            write_json(root.parent / f"bpe{config.vocab_size}.json", {"folder": root.name})
    return root


def _make_tokenizer(corpora: dict[str, Path], config: TokenizerConfig, storage: Path) -> Path:
    from lethe.tokens.analysis import make_tokenizer

    say(f"training a tokenizer of {config.vocab_size:,} ids")
    return make_tokenizer(corpora, config, storage)


def _make_shards(root: Path, corpora: dict[str, Path], tokenizer: Path, each: Each) -> None:
    missing = {corpus: folder for corpus, folder in corpora.items() if not is_joined(root, corpus, tokenizer)}
    units = _units(root, missing, tokenizer)
    if units:
        say(f"encoding {len(units)} parts of the corpora {encoders(Path(units[0]['tokenizer'])).how}")
        for done in each(units, _encode_unit):
            if done["note"]:
                say(done["note"])
    for corpus, folder in missing.items():
        join_parts(root, corpus, folder, tokenizer)
    shutil.rmtree(root / PARTIAL, ignore_errors=True)


def _units(root: Path, corpora: dict[str, Path], tokenizer: Path) -> list[Row]:
    """The parts that are still to be encoded, each to a file of its own."""
    file = tokenizer / "tokenizer.json"
    dtype = token_dtype(load_tokenizer(file))
    return [
        {"part": str(part), "tokenizer": str(file), "path": str(path)}
        for corpus, folder in corpora.items()
        for split in SPLITS
        for part in parts(folder, split)
        if not is_encoded(path := encoded_path(root, corpus, split, part), dtype)
    ]


def _encode_unit(unit: Row) -> Row:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker has one core
    tokenizer, fast, _ = encoders(Path(unit["tokenizer"]))
    return {"note": encode_part(Path(unit["part"]), tokenizer, Path(unit["path"]), fast) or ""}
