import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer

from lethe.config import UserError
from lethe.tokens.analysis import make_tokenizer
from lethe.tokens.tokenizer import (
    EOS_ID,
    TokenizerConfig,
    byte_lengths,
    finished_tokenizer,
    load_tokenizer,
    model_vocab,
    save_tokenizer,
    tokenizer_folder,
    train,
    training_text,
    truncate,
)

Documents = Callable[[int, int], list[str]]
MakeCorpus = Callable[..., Path]


def test_end_token_is_never_made_from_text(tokenizer: Tokenizer) -> None:
    text = "<eos> a<eos>b <eos><eos>"
    for ids in (tokenizer.encode(text).ids, tokenizer.encode_batch_fast([text])[0].ids):
        assert EOS_ID not in ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.id_to_token(EOS_ID) == "<eos>"


@settings(max_examples=60)
@given(text=st.text())
def test_any_text_comes_back_and_its_bytes_are_counted(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert EOS_ID not in ids
    assert tokenizer.decode(ids) == text
    assert byte_lengths(tokenizer)[ids].sum() == len(text.encode())


def test_byte_lengths_of_end_token_and_bytes(tokenizer: Tokenizer) -> None:
    lengths = byte_lengths(tokenizer)
    assert lengths.shape == (tokenizer.get_vocab_size(),)
    assert lengths[EOS_ID] == 0
    assert (lengths[1:257] == 1).all()
    assert (lengths[257:] >= 2).all()


def test_training_is_deterministic_whatever_the_threads(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tokenizer(train(iter(documents(7, 200)), 400), tmp_path / "many.json")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    save_tokenizer(train(iter(documents(7, 200)), 400), tmp_path / "one.json")
    assert (tmp_path / "many.json").read_bytes() == (tmp_path / "one.json").read_bytes()


@pytest.mark.parametrize("size", [258, 290, 340, 341, 5000])
def test_a_cut_tokenizer_is_the_one_trained_smaller(documents: Documents, size: int) -> None:
    largest = train(iter(documents(7, 100)), 341)
    assert truncate(largest, size).to_str() == train(iter(documents(7, 100)), min(size, 341)).to_str()
    assert truncate(largest, size).encode("<eos>").ids[0] != EOS_ID


def test_poor_text_gives_fewer_ids_and_the_model_pads_them() -> None:
    poor, empty = train(iter(["aa bb", "aa"]), 32768), train(iter([]), 32768)
    assert 257 < poor.get_vocab_size() < 270
    assert empty.get_vocab_size() == 257
    assert model_vocab(poor) == model_vocab(empty) == 320


def test_each_corpus_gives_the_same_share_of_the_sample(corpora: dict[str, Path], documents: Documents) -> None:
    sample = list(training_text(corpora, sample_bytes=10_000))
    food = set(documents(1, 40) + documents(2, 30))
    longest = max(len(text.encode()) for text in sample)
    for size in (
        sum(len(text.encode()) for text in sample if text in food),
        sum(len(text.encode()) for text in sample if text not in food),
    ):
        assert abs(size - 5_000) <= longest


def test_the_smallest_corpus_bounds_the_sample(make_corpus: MakeCorpus) -> None:
    corpora = {"food": make_corpus("food", [["ab cd "] * 100], []), "cars": make_corpus("cars", [["xy"] * 30], [])}
    sample = list(training_text(corpora, sample_bytes=1_000_000))
    assert sample.count("xy") == 30
    assert sample.count("ab cd ") == 10


def test_the_sample_spreads_over_the_whole_corpus(make_corpus: MakeCorpus) -> None:
    parts = [[f"{part}{i:03}" for i in range(100)] for part in "abcd"]
    sample = list(training_text({"food": make_corpus("food", parts, [])}, sample_bytes=160))
    assert len(sample) == 40
    assert all(9 <= sum(text.startswith(part) for text in sample) <= 11 for part in "abcd")


def test_endless_words_do_not_reach_the_trainer(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus("food", [["before " + "ACGT" * 5000 + " after" + " " * 2000 + "end"]], [])
    assert list(training_text({"food": corpus}, sample_bytes=100_000)) == ["before ", " after", "end"]


def test_no_text_and_no_corpus_are_refused(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    empty = make_corpus("food", [["", None]], [["x"]])
    with pytest.raises(UserError, match="found no text in its train split"):
        list(training_text({"food": empty}, 1000))
    with pytest.raises(UserError, match="not a finished corpus"):
        list(training_text({"food": tmp_path / "nowhere"}, 1000))


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]  # type: ignore[index]
        data[path[-1]] = to  # type: ignore[index]

    return change


def _swap(data: dict[str, Any]) -> None:
    vocab = data["model"]["vocab"]
    vocab["<eos>"], vocab["!"] = vocab["!"], vocab["<eos>"]


def _rename_last_to(token: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        vocab = data["model"]["vocab"]
        vocab[token] = vocab.pop(max(vocab, key=vocab.get))

    return change


def _rename_byte(data: dict[str, Any]) -> None:
    data["model"]["vocab"]["zzzz"] = data["model"]["vocab"].pop("!")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("normalizer", to={"type": "Lowercase"}), "normalizer"),
        (_set("normalizer", to={"type": "NFC"}), "normalizer"),
        (_set("pre_tokenizer", to={"type": "FixedLength", "length": 0}), "pre_tokenizer"),
        (_set("pre_tokenizer", to={"type": "Split", "pattern": {"Regex": "(a+)+$"}}), "pre_tokenizer"),
        (_set("pre_tokenizer", "add_prefix_space", to=True), "pre_tokenizer"),
        (_set("post_processor", to={"type": "NoSuchThing"}), "post_processor"),
        (_set("decoder", to=None), "decoder"),
        (_set("truncation", to={"max_length": 1}), "truncation"),
        (_set("surprise", to=1), "surprise"),
        (_set("added_tokens", to=[]), "added_tokens"),
        (_set("added_tokens", 0, "special", to=False), "added_tokens"),
        (_set("model", to="BPE"), "found no model"),
        (_set("model", "type", to="WordPiece"), "model.type"),
        (_set("model", "dropout", to=0.5), "model.dropout"),
        (_set("model", "vocab", to=[]), "a mapping of tokens to ids"),
        (_set("model", "vocab", "!", to=2), "not exactly 0 to"),
        (_set("model", "vocab", "!", to=4_000_000_000), "not exactly 0 to"),
        (_set("model", "vocab", "!", to=True), "a mapping of tokens to ids"),
        (_set("model", "vocab", "new", to=100_000), "not exactly 0 to"),
        (_rename_last_to("中"), "stands for no byte"),
        (_rename_last_to(""), "stands for no byte"),
        (_swap, "found id 1 for <eos>"),
        (_rename_byte, "1 of the 256 bytes are missing"),
        (_set("model", "merges", to=None), "a list of pairs"),
        (_set("model", "merges", 0, to=["a", "very long text of no vocabulary"]), r"model.merges\[0\]"),
        (_set("model", "merges", 0, to=["<eos>", "a"]), r"model.merges\[0\]"),
        (_set("model", "merges", 0, to="a b"), r"model.merges\[0\].*a pair of tokens"),
    ],
)
def test_foreign_tokenizers_are_refused(
    tokenizer_path: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    data = json.loads(tokenizer_path.read_text())
    change(data)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"model": {', b"[]", b"\xff\xfe", b"[" * 100_000, b"null", b"9" * 5000])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a tokenizer"):
        load_tokenizer(path)


def test_a_tokenizer_is_finished_with_its_report(corpora: dict[str, Path], tmp_path: Path) -> None:
    config = TokenizerConfig(vocab_size=330)
    assert finished_tokenizer(corpora, config, tmp_path) is None
    folder = make_tokenizer(corpora, config, tmp_path)
    assert finished_tokenizer(corpora, config, tmp_path) == folder == tokenizer_folder(corpora, config, tmp_path)
    assert json.loads((folder.parent / "bpe330.json").read_text()) == {"folder": folder.name}
    report = (folder / "report.json").read_text()
    (folder / "report.json").write_text(report[:100])
    assert finished_tokenizer(corpora, config, tmp_path) is None
    (folder / "report.json").write_text(report)
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    with pytest.raises(UserError, match="not the tokenizer its report.json describes"):
        finished_tokenizer(corpora, config, tmp_path)


def test_other_corpora_or_settings_get_another_folder(corpora: dict[str, Path], tmp_path: Path) -> None:
    folders = [
        tokenizer_folder(corpora, TokenizerConfig(), tmp_path),
        tokenizer_folder(corpora, TokenizerConfig(sample_bytes=1000), tmp_path),
        tokenizer_folder(corpora, TokenizerConfig(vocab_size=1000), tmp_path),
        tokenizer_folder({"food": corpora["food"]}, TokenizerConfig(), tmp_path),
        tokenizer_folder(corpora | {"food": Path("food-89abcdef")}, TokenizerConfig(), tmp_path),
    ]
    assert len(set(folders)) == len(folders)
    reordered = dict(reversed(corpora.items()))
    assert tokenizer_folder(reordered, TokenizerConfig(), tmp_path) == folders[0]


def test_sizes_to_analyse() -> None:
    assert TokenizerConfig().sizes == [4096, 8192, 16384, 32768, 65536]
    assert TokenizerConfig(vocab_size=2048).sizes == [512, 1024, 2048, 4096]
    assert TokenizerConfig(vocab_size=1000).sizes == [500, 1000, 2000]
    assert TokenizerConfig(vocab_size=900_000).sizes == [112_500, 225_000, 450_000, 900_000]
    assert TokenizerConfig(vocab_size=1000, candidates=[2000, 1000]).sizes == [1000, 2000]
    for wrong in ({"vocab_size": 100}, {"candidates": [2]}, {"sample_bytes": 0}, {"size": 1}):
        with pytest.raises(ValidationError):
            TokenizerConfig.model_validate(wrong)
