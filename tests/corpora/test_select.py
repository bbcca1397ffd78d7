from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lethe.config import read_yaml, validate
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.schema import FINEWEB
from lethe.corpora.select import CANDIDATES, hosts, select, text_hash


def rejects_of(toy: Any, row: dict[str, Any]) -> dict[str, dict[str, int]]:
    kept, rejects = select(toy.table([row]), toy.corpora)
    assert kept.num_rows == 0
    return {name: dict(counts) for name, counts in rejects.items()}


def test_each_page_goes_to_its_corpus_in_the_order_it_came(toy: Any) -> None:
    rows = [toy.page(toy.text((toy.soup, toy.car, toy.news)[i % 3], i), i) for i in range(30)]
    kept, rejects = select(toy.table(rows), toy.corpora)
    assert kept.schema == CANDIDATES
    assert kept["corpus"].to_pylist() == ["soup", "car"] * 10
    assert kept.select(FINEWEB.names).to_pylist() == [row for i, row in enumerate(rows) if i % 3 < 2]
    assert rejects == {"soup": Counter(off_topic=20), "car": Counter(off_topic=20)}
    assert min(kept["score"].to_pylist()) > 2 * max(kept["rival_score"].to_pylist())
    assert kept["host"].to_pylist()[:2] == ["site0.example", "site1.example"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": None}, "no_text"),
        ({"text": ""}, "no_text"),
        ({"token_count": None}, "no_token_count"),
        ({"language": "de"}, "language"),
        ({"language": None}, "language"),
        ({"language_score": 0.1}, "language"),
        ({"text": "onion soup"}, "too_short"),
        ({"text": "onion soup ladle the " * 300}, "too_long"),
        ({"text": "onion soup with a ladle\n" * 20}, "junk"),
        ({"text": "onion soup ladle 1234567890 1234567890 " * 3}, "junk"),
        ({"text": "onion soup with a ladle \x00 and a pot"}, "junk"),
    ],
)
def test_a_bad_page_is_rejected_for_its_reason(toy: Any, change: dict[str, Any], reason: str) -> None:
    rejects = rejects_of(toy, toy.page(toy.text(toy.soup, 1), 1) | change)
    assert rejects["soup"] == {reason: 1}


def test_invalid_utf8_is_rejected_wherever_it_stands(toy: Any) -> None:
    good = toy.table(toy.pages(toy.soup, range(3)))
    for name in ("text", "url", "id"):
        values = [value.encode() for value in good[name].to_pylist()]
        values[1] += b"\xff\xfe"
        column = pa.Array.from_buffers(pa.string(), 3, pa.array(values, pa.binary()).buffers())
        kept, rejects = select(good.set_column(good.schema.names.index(name), name, column), toy.corpora)
        assert kept["id"].to_pylist() == [good["id"][0].as_py(), good["id"][2].as_py()]
        assert rejects["soup"] == {"bad_utf8": 1}


def test_a_page_of_two_domains_belongs_to_neither(toy: Any) -> None:
    both = toy.page(toy.text(toy.soup, 1) + " " + toy.text(toy.car, 2))
    assert rejects_of(toy, both) == {"soup": {"several_corpora": 1}, "car": {"several_corpora": 1}}
    mostly_soup = toy.page(toy.text(toy.soup, 1, length=200) + " An engine stood by.")
    assert select(toy.table([mostly_soup]), toy.corpora)[0]["corpus"].to_pylist() == ["soup"]


@given(st.lists(st.text("onion soup engine tyre the\n", max_size=80) | st.none(), max_size=8))
def test_every_page_is_a_candidate_or_counted_once(toy: Any, texts: list[str | None]) -> None:
    pages = toy.table([toy.page(text, i) for i, text in enumerate(texts)])
    kept, rejects = select(pages, toy.corpora)
    for name, counts in rejects.items():
        assert kept["corpus"].to_pylist().count(name) + sum(counts.values()) == len(texts)
    assert len(set(kept["id"].to_pylist())) == kept.num_rows


def test_a_third_domain_is_one_yaml(toy: Any, tmp_path: Path) -> None:
    path = tmp_path / "news.yaml"
    path.write_text("description: town politics\nwords: [council, vote, mayor]\nmin_score: 50\n")
    corpora = {**toy.corpora, "news": validate(CorpusConfig, read_yaml(path))}
    kept, _ = select(toy.table([*toy.pages(toy.news, range(2)), *toy.pages(toy.car, range(2, 3))]), corpora)
    assert kept["corpus"].to_pylist() == ["news", "news", "car"]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.Example.COM/a?b#c", "example.com"),
        ("http://user:pw@blog.example.org:8080/", "blog.example.org"),
        ("https://bücher.example/", "bücher.example"),
        ("https://example.com?x=1", "example.com"),
        ("javascript:void(0)", None),
        ("/relative/path", None),
        ("", None),
        (None, None),
    ],
)
def test_the_host_of_an_address(url: str | None, host: str | None) -> None:
    assert hosts(pa.chunked_array([pa.array([url], pa.string())])).to_pylist() == [host]


def test_equal_texts_have_equal_hashes_but_for_case_punctuation_and_space() -> None:
    assert text_hash("Hello,  World!\n") == text_hash("hello world") == text_hash("«HELLO» (world)")
    assert text_hash("hello\u00a0world") == text_hash("helloworld")
    assert len({text_hash(text) for text in ("hello world", "hello worlds", "Größe", "große")}) == 4
