"""The faster encoder against the reference; what needs it is skipped where it is not installed."""

import builtins
import json
import unicodedata
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

from lethe.tokens import encode
from lethe.tokens.encode import Fast, encoders, fast_encoder, first_difference, reference
from lethe.tokens.shards import encode_part
from lethe.tokens.tokenizer import BYTE_ALPHABET, EOS, EOS_ID, byte_lengths, load_tokenizer
from lethe.tokens.torture import torture_texts

Documents = Callable[[int, int], list[str]]
LETTERS_TO_CONTROLS = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co"


@pytest.fixture(scope="module")
def pairs(tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer that joins nearly any two bytes, so that no difference in the split stays hidden."""
    data = json.loads(tokenizer_path.read_text())
    merges = [[a, b] for a in BYTE_ALPHABET for b in BYTE_ALPHABET][:65_000]
    tokens = [EOS, *BYTE_ALPHABET, *("".join(pair) for pair in merges)]
    data["model"] |= {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
    path = tmp_path_factory.mktemp("pairs") / "tokenizer.json"
    path.write_text(json.dumps(data))
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer) -> Fast:
    pytest.importorskip("gigatoken")
    return Fast(tokenizer)


@pytest.fixture(scope="module")
def fast_pairs(pairs: Tokenizer) -> Fast:
    pytest.importorskip("gigatoken")
    return Fast(pairs)


def assert_equal(found: list[np.ndarray], exact: list[np.ndarray]) -> None:
    assert [list(ids) for ids in found] == [list(ids) for ids in exact]


def test_the_torture_texts_hold_what_they_promise() -> None:
    texts = torture_texts()
    everything = "".join(texts)
    everything.encode()  # no surrogates
    assert "" in texts and EOS in texts
    assert max(map(len, texts)) >= 3000
    categories = {unicodedata.category(character) for character in everything}
    assert categories >= set(LETTERS_TO_CONTROLS.split())
    assert {"\u200d", "\ufe0f", "\u0301", "\u202b", "\x00", "中", "א", "👩"} <= set(everything)


def test_the_reference_never_makes_the_end_token(tokenizer: Tokenizer) -> None:
    texts = torture_texts()
    for text, ids in zip(texts, reference(tokenizer, texts), strict=True):
        assert EOS_ID not in ids
        assert tokenizer.decode(ids) == text


def test_torture_texts_are_encoded_alike(fast: Fast, fast_pairs: Fast) -> None:
    for each in (fast, fast_pairs):
        found = each.encode(torture_texts())
        assert_equal(found, reference(each.tokenizer, torture_texts()))
        assert not any(EOS_ID in ids for ids in found)


@settings(max_examples=200)
@given(texts=st.lists(st.text() | st.sampled_from(["<eos>", " <eos>\n", "a<eos>b"]), max_size=5))
def test_any_texts_are_encoded_alike(fast_pairs: Fast, texts: list[str]) -> None:
    found = fast_pairs.encode(texts)
    assert_equal(found, reference(fast_pairs.tokenizer, texts))
    assert not any(EOS_ID in ids for ids in found)


def test_what_was_seen_is_forgotten_without_a_trace(fast: Fast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "FORGET_AFTER", 10)
    backends = []
    for texts in (["some butter"], ["flour"], ["oven <eos>", ""]):
        assert_equal(fast.encode(texts), reference(fast.tokenizer, texts))
        backends.append(fast._backend)
    assert backends[0] is not backends[1] and backends[1] is backends[2]


@pytest.mark.slow
def test_every_character_is_encoded_alike(fast_pairs: Fast) -> None:
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    texts = [
        "".join(f"a{c}b {c}{c} 1{c}2 .{c}! {c}\n {c}'s " for c in points[i : i + 64]) for i in range(0, 1112064, 64)
    ]
    for start in range(0, len(texts), 1000):
        chunk = texts[start : start + 1000]
        assert_equal(fast_pairs.encode(chunk), reference(fast_pairs.tokenizer, chunk))


def test_first_difference_names_document_and_byte(tokenizer: Tokenizer) -> None:
    exact = reference(tokenizer, ["flour", "é butter", "oven"])
    lengths = byte_lengths(tokenizer)
    assert first_difference(exact, [ids.copy() for ids in exact], lengths) is None
    changed = [ids.copy() for ids in exact]
    changed[1][-1] += 1
    assert first_difference(exact, changed, lengths) == (1, len("é butter".encode()) - lengths[exact[1][-1]])
    cut = [exact[0], exact[1], exact[2][:-1]]
    assert first_difference(exact, cut, lengths) == (2, 4 - lengths[exact[2][-1]])
    longer = [np.append(exact[0], 5), *exact[1:]]
    assert first_difference(exact, longer, lengths) == (0, 5)


def test_a_missing_encoder_is_said(tokenizer_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "gigatoken":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    encoders.cache_clear()
    found = encoders(tokenizer_path)
    encoders.cache_clear()
    assert found.fast is None
    assert found.how == "with tokenizers; gigatoken, the extra `fast`, is faster and not installed"


def test_an_exact_encoder_is_used(fast: Fast) -> None:
    used, how = fast_encoder(fast.tokenizer)
    assert used is not None
    assert how == f"with {fast.name}"


def test_an_encoder_that_fails_the_torture_texts_is_not_used(fast_pairs: Fast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its real difference, an unlike Unicode, no longer kept from it."""
    monkeypatch.setattr(encode, "_holds_new_letter", lambda text: False)
    used, how = fast_encoder(fast_pairs.tokenizer)
    assert used is None
    assert f"{fast_pairs.name} gives other ids on torture text " in how
    number, byte = (int(word.rstrip(",")) for word in how.split() if word.rstrip(",").isdigit())
    texts = torture_texts()
    alike = [
        np.array_equal(*both)
        for both in zip(fast_pairs.encode(texts), reference(fast_pairs.tokenizer, texts), strict=True)
    ]
    assert alike.index(False) == number
    assert 0 < byte < len(texts[number].encode())


def write_part(path: Path, texts: list[str | None], **columns: list[str]) -> Path:
    pq.write_table(pa.table({"text": pa.array(texts, pa.string()), **columns}), path)
    return path


def both(part: Path, tokenizer: Tokenizer, fast: Fast) -> tuple[str | None, list[tuple[bytes, bytes]]]:
    """What the faster encoder left to say, and the files with it and without."""
    note = encode_part(part, tokenizer, part.with_name("fast.bin"), fast)
    assert encode_part(part, tokenizer, part.with_name("slow.bin")) is None
    paths = [part.with_name(name) for name in ("fast.bin", "slow.bin")]
    return note, [(path.read_bytes(), path.with_suffix(".json").read_bytes()) for path in paths]


def test_a_part_is_the_same_with_and_without(fast: Fast, documents: Documents, tmp_path: Path) -> None:
    texts = [*documents(3, 1500), None, "", *torture_texts(), "\U00010940 new \u088f letters"]
    note, (with_it, without) = both(write_part(tmp_path / "a.parquet", texts), fast.tokenizer, fast)
    assert note is None
    assert with_it == without


class Wrong(Fast):
    """Gives another last id for documents with a mark; all it needs to be wrong in a place that is known."""

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        ids = super().encode(texts)
        return [np.append(one[:-1], 7) if "WRONG" in text else one for text, one in zip(texts, ids, strict=True)]


def test_a_part_with_a_difference_is_encoded_by_the_reference(fast: Fast, documents: Documents, tmp_path: Path) -> None:
    texts = documents(3, 2500)
    texts[1000:2000] = [f"{text} WRONG!" for text in texts[1000:2000]]
    ids = [f"<urn:{number}>" for number in range(2500)]
    wrong, part = Wrong(fast.tokenizer), write_part(tmp_path / "a.parquet", texts, id=ids)
    note, (with_it, without) = both(part, fast.tokenizer, wrong)
    assert with_it == without
    last = len(texts[1000].encode()) - 1
    assert note == (
        f"{part}: encoded with tokenizers: {fast.name} gives other ids on row 1,000, <urn:1000>, "
        f"from byte {last:,} of its text on"
    )
    note, _ = both(write_part(tmp_path / "b.parquet", texts[1000:1001]), fast.tokenizer, wrong)
    assert note is not None and "on row 0, from byte" in note


def test_one_document_in_a_hundred_is_checked(fast: Fast, tmp_path: Path) -> None:
    """A difference in one document in 50 is found in 5,000 of them, but for a chance below 1 %."""
    texts = [f"text {number} {'WRONG!' if number % 50 == 49 else ''}" for number in range(5000)]
    wrong = Wrong(fast.tokenizer)
    notes = [both(write_part(tmp_path / name, texts), fast.tokenizer, wrong)[0] for name in ("a.parquet", "a.parquet")]
    assert notes[0] is not None and notes[0] == notes[1]
