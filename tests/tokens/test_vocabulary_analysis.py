import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from lethe.tokens.analysis import analyse, count_pieces, make_tokenizer, measure
from lethe.tokens.tokenizer import TokenizerConfig, is_held_out, load_tokenizer, train, training_text

Documents = Callable[[int, int], list[str]]


def left_out(texts: list[str]) -> list[str]:
    return [text for text in texts if is_held_out(text.encode())]


def test_measures_agree_with_the_encoder(tokenizer: Tokenizer, documents: Documents) -> None:
    texts = documents(9, 20)
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    times = Counter(i for ids in encoded for i in ids)
    found = measure(tokenizer, count_pieces(tokenizer, texts))
    assert found["tokens"] == times.total()
    assert found["bytes_per_token"] == sum(len(text.encode()) for text in texts) / times.total()
    assert found["used"] == len(times) / tokenizer.get_vocab_size()
    rare = [i for i in range(tokenizer.get_vocab_size()) if times[i] < 10]
    assert found["rare"] == pytest.approx(len(rare) / tokenizer.get_vocab_size())
    assert 1 - found["used"] < found["rare"] < 1


def test_words_are_letters_alone() -> None:
    tokenizer = train(iter(["flour flour flour"] * 9), 400)
    text = "flour flour, 1984 x2 don't é <eos>\nflour!"
    # The words, each with its tokens: flour 1 (in front of which stands no space, so 1 or more), don 3 + space, ...
    words = ["flour", " flour", " x", " don", " é", "eos", "flour"]
    tokens = [len(tokenizer.encode(word).ids) for word in words]
    found = measure(tokenizer, count_pieces(tokenizer, [text]))
    assert found["fertility"] == sum(tokens) / len(words)
    assert found["coverage"] == tokens.count(1) / len(words)
    assert len(tokenizer.encode(" flour").ids) == 1 < len(tokenizer.encode(" é").ids)


def test_larger_vocabularies_cover_more(corpora: dict[str, Path]) -> None:
    corpora["third"] = corpora["food"]
    largest = train(training_text(corpora, 100_000), 360)
    rows = analyse(largest, [280, 320, 360], corpora)
    assert [(row["candidate"], row["corpus"]) for row in rows] == [
        (size, corpus) for size in (280, 320, 360) for corpus in ("automotive", "food", "third")
    ]
    for corpus in corpora:
        mine = [row for row in rows if row["corpus"] == corpus]
        for measured in (mine, [row["val"] for row in mine]):
            for field, sign in (("coverage", 1), ("bytes_per_token", 1), ("fertility", -1)):
                values = [sign * row[field] for row in measured]
                assert values == sorted(values)
                assert values[0] < values[-1]
            assert all(row["fertility"] >= 1 and 0 < row["used"] <= 1 for row in measured)


def test_pages_to_measure_on_are_not_trained_on(corpora: dict[str, Path], documents: Documents) -> None:
    every = [*documents(1, 40), *documents(2, 30)]
    out = left_out(every)
    assert 0 < len(out) < len(every) / 5
    assert list(training_text({"food": corpora["food"]}, 10**9)) == [text for text in every if text not in out]
    tokenizer = train(training_text(corpora, 100_000), 340)
    (row,) = analyse(tokenizer, [340], {"food": corpora["food"]})
    measured = measure(tokenizer, count_pieces(tokenizer, out))
    assert {name: row[name] for name in measured} == measured
    assert row["val"] == measure(tokenizer, count_pieces(tokenizer, documents(3, 10)))
    assert row["val"] != measured


def test_nothing_to_measure_is_null(tokenizer: Tokenizer) -> None:
    nothing = measure(tokenizer, Counter())
    assert nothing.pop("tokens") == 0
    assert set(nothing.values()) == {None}
    numbers = measure(tokenizer, count_pieces(tokenizer, ["12 34"]))
    assert numbers["coverage"] is None
    assert numbers["bytes_per_token"] is not None


def test_a_tokenizer_is_made_with_its_report(corpora: dict[str, Path], tmp_path: Path) -> None:
    config = TokenizerConfig(vocab_size=330, candidates=[350])
    folder = make_tokenizer(corpora, config, tmp_path)
    report = json.loads((folder / "report.json").read_text())
    assert report["config"]["vocab_size"] == 330
    assert report["corpora"] == {"automotive": "automotive-0123abcd", "food": "food-0123abcd"}
    assert [row["candidate"] for row in report["analysis"]] == [330, 330, 350, 350]
    assert report["recommendation"]["vocab_size"] in (330, 350)
    assert load_tokenizer(folder / "tokenizer.json").get_vocab_size() == 330


@pytest.mark.parametrize("limit", [1, 1500, 10**9])
def test_held_out_text_is_capped(
    corpora: dict[str, Path], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, limit: int, documents: Documents
) -> None:
    monkeypatch.setattr("lethe.tokens.analysis.HELD_OUT_BYTES", limit)
    (row,) = analyse(tokenizer, [340], {"food": corpora["food"]})
    taken, size = [], 0
    for text in documents(3, 10):
        if size < limit:
            taken.append(text)
            size += len(text.encode())
    assert row["val"]["coverage"] == measure(tokenizer, count_pieces(tokenizer, taken))["coverage"]
