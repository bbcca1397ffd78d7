"""Token shards made, made again after an interruption, and found when they are finished."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lethe.config import UserError
from lethe.tokens.analysis import make_tokenizer
from lethe.tokens.make import make_tokens
from lethe.tokens.shards import PARTIAL, TokenData, encode_part, encoded_path, is_finished, tokens_folder
from lethe.tokens.tokenizer import TokenizerConfig, load_tokenizer, parts, tokenizer_folder

CONFIG = TokenizerConfig(vocab_size=330)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_bytes_after_any_interruption(corpora: dict[str, Path], tmp_path: Path) -> None:
    storage = tmp_path / "undisturbed"
    expected = make_tokens(corpora, CONFIG, storage)
    assert sorted(files(expected)) == [
        f"{corpus}/{name}"
        for corpus in ("automotive", "food")
        for name in ("meta.json", "train-00000.bin", "val-00000.bin")
    ]

    # Killed after the tokenizer, one part and half of another.
    storage = tmp_path / "killed"
    tokenizer = make_tokenizer(corpora, CONFIG, storage)
    root = tokens_folder(corpora, CONFIG, storage)
    assert root is not None and root.name == expected.name
    first, second = parts(corpora["food"], "train")
    encode_part(first, load_tokenizer(tokenizer / "tokenizer.json"), encoded_path(root, "food", "train", first))
    encoded_path(root, "food", "train", second).write_bytes(b"half")
    assert make_tokens(corpora, CONFIG, storage) == root
    assert files(root) == files(expected)

    # Killed while the last corpus was joined: the other one stays untouched.
    (root / "food" / "meta.json").unlink()
    (root / "food" / "train-00001.bin").write_bytes(b"of another layout")
    (root / PARTIAL).mkdir()
    written = (root / "automotive" / "meta.json").stat().st_mtime_ns
    assert not is_finished(root, corpora)
    assert make_tokens(corpora, CONFIG, storage) == root
    assert files(root) == files(expected)
    assert (root / "automotive" / "meta.json").stat().st_mtime_ns == written


def test_what_cannot_serve_is_refused(
    corpora: dict[str, Path], make_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="found no text in its train split"):
        make_tokens({"empty": make_corpus("empty", [[""]], [["x"]])}, CONFIG, tmp_path)
    root = make_tokens(corpora, CONFIG, tmp_path)
    path = TokenData(root).tokenizer_path
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="not the tokenizer its report.json describes"):
        make_tokens(corpora, CONFIG, tmp_path)


def test_shards_outlive_the_folder_of_their_tokenizer(corpora: dict[str, Path], tmp_path: Path) -> None:
    root = make_tokens(corpora, CONFIG, tmp_path)
    shards = files(root)
    first = TokenData(root).tokenizer_path.parent
    analysed_otherwise = CONFIG.model_copy(update={"candidates": [350]})
    assert make_tokens(corpora, analysed_otherwise, tmp_path) == root
    assert files(root) == shards
    shutil.rmtree(first)
    assert make_tokens(corpora, analysed_otherwise, tmp_path) == root
    assert TokenData(root).tokenizer_path.parent == tokenizer_folder(corpora, analysed_otherwise, tmp_path)
    assert {name: ids for name, ids in files(root).items() if name.endswith(".bin")} == {
        name: ids for name, ids in shards.items() if name.endswith(".bin")
    }
