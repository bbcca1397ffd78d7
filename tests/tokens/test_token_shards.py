import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lethe.config import UserError
from lethe.files import sha256, write_json
from lethe.tokens.make import make_tokens
from lethe.tokens.meta import SPLITS, check_shards
from lethe.tokens.shards import (
    PARTIAL,
    TokenData,
    TokenSplit,
    encode_part,
    is_encoded,
    is_finished,
    is_joined,
    join_split,
    token_dtype,
)
from lethe.tokens.tokenizer import (
    BYTE_ALPHABET,
    EOS_ID,
    TokenizerConfig,
    byte_lengths,
    load_tokenizer,
    parts,
)

U2 = np.dtype("<u2")


def encode_documents(texts: list[str | None], tokenizer: Tokenizer, folder: Path) -> Path:
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), folder / "part-00000.parquet")
    encode_part(folder / "part-00000.parquet", tokenizer, folder / "part.bin")
    return folder / "part.bin"


def as_documents(ids: np.ndarray) -> list[list[int]]:
    return [list(piece[:-1]) for piece in np.split(ids, np.flatnonzero(ids == EOS_ID) + 1)[:-1]]


@settings(max_examples=60)
@given(texts=st.lists(st.text() | st.none() | st.just("a <eos> b"), max_size=8))
def test_a_part_decodes_to_its_documents(
    texts: list[str | None], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = encode_documents(texts, tokenizer, tmp_path_factory.mktemp("part"))
    ids = np.fromfile(path, U2)
    kept = [text for text in texts if text]
    assert [tokenizer.decode(document) for document in as_documents(ids)] == kept
    assert len(ids) == 0 or ids[-1] == EOS_ID
    counts = json.loads(path.with_suffix(".json").read_text())
    assert counts == {"documents": len(kept), "tokens": len(ids), "bytes": sum(len(text.encode()) for text in kept)}
    assert counts["bytes"] == byte_lengths(tokenizer)[ids].sum()


def test_a_part_is_encoded_when_its_file_is_whole(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = encode_documents(["some butter", "flour"], tokenizer, tmp_path)
    assert is_encoded(path, U2)
    assert not is_encoded(path, np.dtype("<u4"))
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_encoded(path, U2)
    assert not is_encoded(tmp_path / "other.bin", U2)


def write_encoded(folder: Path, number: int, documents: list[list[int]]) -> Path:
    path, ids = folder / f"part-{number:05}.bin", [i for document in documents for i in (*document, EOS_ID)]
    np.array(ids, U2).tofile(path)
    write_json(path.with_suffix(".json"), {"documents": len(documents), "tokens": len(ids), "bytes": 7})
    return path


Documents = st.lists(st.lists(st.integers(1, 65535), max_size=6), max_size=6)


@settings(max_examples=60)
@given(encoded=st.lists(Documents, max_size=4), limit=st.integers(1, 30), context=st.integers(1, 9))
def test_shards_and_windows_partition_the_stream(
    encoded: list[list[list[int]]], limit: int, context: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("split")
    paths = [write_encoded(folder, number, documents) for number, documents in enumerate(encoded)]
    stream = np.concatenate([np.zeros(0, U2), *(np.fromfile(path, U2) for path in paths)])
    split = join_split(folder, "train", paths, U2, limit)

    pieces = [np.fromfile(folder / shard.name, U2) for shard in split.shards]
    assert [shard.name for shard in split.shards] == [f"train-{number:05}.bin" for number in range(len(pieces))]
    assert np.array_equal(np.concatenate([np.zeros(0, U2), *pieces]), stream)
    for shard, piece in zip(split.shards, pieces, strict=True):
        assert shard.tokens == len(piece) and shard.sha256 == sha256(folder / shard.name)
        assert shard.documents == np.count_nonzero(piece == EOS_ID)
        assert piece[-1] == EOS_ID
        assert len(piece) <= limit or shard.documents == 1

    tokens = TokenSplit(folder, split, U2)
    count = tokens.windows(context)
    rows = tokens.read(np.arange(count), context)
    assert rows.shape == (count, context + 1) and rows.dtype == np.int64
    assert np.array_equal(rows[:, 1:].ravel(), stream[1 : 1 + count * context])
    assert np.array_equal(rows[:, 0], stream[: count * context : context])
    assert len(stream) - 1 - count * context < context
    assert np.array_equal(tokens.read(np.arange(count)[::-1], context), rows[::-1])
    for outside in (-1, count):
        with pytest.raises(IndexError):
            tokens.read(np.array([outside]), context)


def test_joining_notices_a_part_with_other_counts(tmp_path: Path) -> None:
    path = write_encoded(tmp_path, 0, [[1, 2], [3]])
    write_json(path.with_suffix(".json"), {"documents": 3, "tokens": 5, "bytes": 7})
    with pytest.raises(UserError, match="documents: found 2 in the shards; allowed: 3"):
        join_split(tmp_path, "train", [path], U2)


@pytest.mark.parametrize(("size", "dtype"), [(65536, "<u2"), (65537, "<u4")])
def test_two_bytes_a_token_up_to_65536_ids(tokenizer_path: Path, tmp_path: Path, size: int, dtype: str) -> None:
    data = json.loads(tokenizer_path.read_text())
    pairs = [[a, b] for a in BYTE_ALPHABET for b in BYTE_ALPHABET][: size - 257]
    tokens = ["<eos>", *BYTE_ALPHABET, *("".join(pair) for pair in pairs)]
    data["model"] |= {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": pairs}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data))
    large = load_tokenizer(path)
    assert token_dtype(large) == np.dtype(dtype)
    ids = np.fromfile(encode_documents(["zzyy zz", "!!"], large, tmp_path), dtype)
    assert [large.decode(document) for document in as_documents(ids)] == ["zzyy zz", "!!"]


@pytest.fixture
def root(corpora: dict[str, Path], tmp_path: Path) -> Path:
    return make_tokens(corpora, TokenizerConfig(vocab_size=330), tmp_path)


def test_token_data_holds_what_the_corpora_say(root: Path, corpora: dict[str, Path]) -> None:
    data = TokenData(root)
    tokenizer = load_tokenizer(data.tokenizer_path)
    assert data.corpora == ["automotive", "food"]
    assert data.vocab_size == 384 and data.byte_lengths.shape == (384,)
    assert np.array_equal(data.byte_lengths[:330], byte_lengths(tokenizer)) and not data.byte_lengths[330:].any()
    assert data.tokenizer_fingerprint == sha256(data.tokenizer_path)
    for corpus, folder in corpora.items():
        for split in SPLITS:
            tables = [pq.read_table(part)["text"].to_pylist() for part in parts(folder, split)]
            texts = [text for table in tables for text in table if text]
            found = data.split(corpus, split)
            stream = found.read(np.arange(found.windows(1)), 1)
            ids = np.append(stream[:, 0], stream[-1, 1])
            assert found.tokens == len(ids)
            assert [tokenizer.decode(document) for document in as_documents(ids)] == texts


def test_fingerprints_tell_splits_apart_and_stay_when_the_tree_moves(root: Path, tmp_path: Path) -> None:
    def fingerprints(data: TokenData) -> list[str]:
        return [data.split(corpus, split).fingerprint for corpus in data.corpora for split in SPLITS]

    before = fingerprints(TokenData(root))
    assert len(set(before)) == 4
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = TokenData(tmp_path / "elsewhere" / "tokens" / root.name)
    assert fingerprints(moved) == before
    assert len(moved.split("food", "train").read(np.arange(3), 8)) == 3


def test_an_empty_split_has_no_windows(make_corpus: Callable[..., Path], tmp_path: Path) -> None:
    corpora = {"food": make_corpus("food", [["some text"]], [])}
    root = make_tokens(corpora, TokenizerConfig(vocab_size=330), tmp_path)
    split = TokenData(root).split("food", "val")
    assert (split.tokens, split.windows(8)) == (0, 0)
    assert split.read(np.zeros(0, np.int64), 8).shape == (0, 9)


def edit_meta(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "food" / "meta.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def cut(root: Path) -> None:
    path = root / "food" / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-1])


def lose_a_document(meta: dict[str, Any]) -> None:
    meta["splits"]["train"]["documents"] -= 1


def four_bytes(meta: dict[str, Any]) -> None:
    """Sizes still agree: half as many ids of twice the length."""
    meta["dtype"] = "uint32"
    for split in meta["splits"].values():
        for counts in (split, *split["shards"]):
            counts["tokens"] //= 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"train-00000.bin: found \d+ bytes; allowed: \d+"),
        (lambda root: (root / "food" / "val-00000.bin").unlink(), "val-00000.bin: found None bytes"),
        (lambda root: (root / "food" / "meta.json").unlink(), "meta.json: not finished token shards"),
        (lambda root: (root / "food" / "meta.json").write_text('{"version": 1'), "not finished token shards"),
        (lambda root: (root / "food" / "meta.json").write_text("[]"), "meta.json"),
        (lambda root: edit_meta(root, lambda meta: meta.update(version=2)), "version: found 2"),
        (lambda root: edit_meta(root, lambda meta: meta.update(dtype="int8")), "dtype: found 'int8'"),
        (lambda root: edit_meta(root, lambda meta: meta["splits"].pop("val")), "splits.val: missing"),
        (lambda root: edit_meta(root, lambda meta: meta.update(tokenizer="../../x")), "tokenizer: found"),
        (
            lambda root: edit_meta(root, lambda meta: meta.update(tokenizer_sha256="0" * 64)),
            "does not match the shards",
        ),
        (lambda root: edit_meta(root, lose_a_document), r"splits.train: documents: found \d+ in the shards"),
        (lambda root: edit_meta(root, four_bytes), r"does not match the shards|bytes; allowed"),
        (lambda root: (root / PARTIAL).mkdir(), "not finished"),
        (shutil.rmtree, "found no token shards"),
    ],
)
def test_damaged_shards_are_refused_and_count_as_absent(
    root: Path, corpora: dict[str, Path], damage: Callable[[Path], Any], message: str
) -> None:
    assert is_finished(root, corpora)
    damage(root)
    with pytest.raises(UserError, match=message):
        TokenData(root)
    assert not is_finished(root, corpora)


def test_a_shard_written_to_since_must_hold_what_it_held(root: Path, corpora: dict[str, Path]) -> None:
    """101, where sizes agree: an id that no vocabulary has, or just another text."""
    path, tokenizer = root / "food" / "train-00000.bin", TokenData(root).tokenizer_path.parent
    before = path.read_bytes()
    for id_ in (60_000, 5):
        ids = np.frombuffer(before, U2).copy()
        ids[3] = id_
        ids.tofile(path)
        with pytest.raises(UserError, match=r"train-00000.bin: sha256: found .*; allowed: .*; tokenize again"):
            check_shards(root)
        assert not is_finished(root, corpora)
        assert not is_joined(root, "food", tokenizer)
        assert is_joined(root, "automotive", tokenizer)
    path.write_bytes(before)
    check_shards(root)
    assert is_finished(root, corpora)


def test_shards_of_another_tokenizer_are_not_joined(root: Path) -> None:
    """Else nobody would make them again, and nobody could open them."""
    tokenizer = TokenData(root).tokenizer_path.parent
    edit_meta(root, lambda meta: meta.update(tokenizer_sha256="0" * 64))
    assert not is_joined(root, "food", tokenizer)
    assert is_joined(root, "automotive", tokenizer)


def test_a_shard_that_was_cut_or_replaced_while_the_folder_is_open_is_not_read_as_another(root: Path) -> None:
    path, data = root / "food" / "train-00000.bin", TokenData(root)
    before = path.read_bytes()
    for other in (before[: len(before) // 4 * 2], bytes(len(before))):
        path.write_bytes(other)
        with pytest.raises(UserError, match=r"train-00000.bin: .*found .*; allowed: .*; tokenize again"):
            data.split("food", "train").read(np.array([0]), 8)
    path.write_bytes(before)
    data.split("food", "train").read(np.array([0]), 8)


def test_another_tokenizer_is_refused(root: Path) -> None:
    path = TokenData(root).tokenizer_path
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="a tokenizer that does not match the shards"):
        TokenData(root)


def test_unknown_corpus(root: Path) -> None:
    with pytest.raises(UserError, match="found no corpus 'foot'; allowed: automotive, food"):
        TokenData(root).split("foot", "train")


def test_not_finished_while_a_corpus_is_missing(root: Path, corpora: dict[str, Path]) -> None:
    assert not is_finished(root, corpora | {"third": corpora["food"]})
