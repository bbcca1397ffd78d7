"""The built-in sample: reproducible, honest about what is planted, and free of duplicates that are not."""

import hashlib
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from lethe.config import UserError
from lethe.corpora.sample import write_sample
from lethe.corpora.sample.voice import Voice
from lethe.corpora.sample.write import FORMAT
from lethe.corpora.schema import FINEWEB
from lethe.files import sha256

DOMAINS = ("food", "automotive")


@pytest.fixture(scope="module")
def sample(sample_storage: Path) -> Path:
    return sample_storage / "data" / "sample"


@pytest.fixture(scope="module")
def known(sample: Path) -> dict[str, Any]:
    """facts.json."""
    return json.loads((sample / "facts.json").read_text())


@pytest.fixture(scope="module")
def rows(sample: Path) -> dict[str, dict[str, Any]]:
    """All pages by id."""
    return {row["id"]: row for path in sorted(sample.glob("*.parquet")) for row in pq.read_table(path).to_pylist()}


def words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def shingles(text: str) -> set[tuple[str, ...]]:
    """Five words in a row, wherever they stand."""
    tokens = words(text)
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def jaccard(a: str, b: str) -> float:
    x, y = shingles(a), shingles(b)
    return len(x & y) / len(x | y)


def alike(texts: list[str], over: float) -> Iterator[tuple[int, int]]:
    """Every pair of texts whose sets of shingles have a Jaccard similarity above `over`."""
    numbers: dict[tuple[str, ...], int] = {}
    sets = [[numbers.setdefault(s, len(numbers)) for s in sorted(shingles(text))] for text in texts]
    ends = np.cumsum([0, *map(len, sets)])
    ids = np.concatenate([np.array(s, dtype=np.int64) for s in sets])
    matrix = sparse.csr_matrix((np.ones(len(ids), np.float32), ids, ends), (len(texts), len(numbers)))
    shared = (matrix @ matrix.T).tocoo()
    sizes = np.diff(ends)
    either = sizes[shared.row] + sizes[shared.col] - shared.data
    close = (shared.row < shared.col) & (shared.data > over * either)
    yield from zip(shared.row[close].tolist(), shared.col[close].tolist(), strict=True)


def test_it_has_finewebs_columns_in_several_files_and_row_groups(sample):
    files = [pq.ParquetFile(path) for path in sorted(sample.glob("*.parquet"))]
    assert len(files) > 1
    assert all(file.schema_arrow.equals(FINEWEB) for file in files)
    assert all(file.num_row_groups > 1 for file in files)


def test_another_content_is_another_format(rows, known):
    """When this fails, either undo the change to the pages or count FORMAT up, so that old samples are replaced."""
    digest = hashlib.sha256()
    for id in sorted(rows):
        digest.update(repr(sorted(rows[id].items())).encode())
    assert (FORMAT, known["format"], digest.hexdigest()[:16]) == (1, 1, "2d48560663f8f0c9")


def test_a_whole_sample_is_left_alone_and_a_broken_one_is_mended_to_the_same_bytes(sample, known, tmp_path):
    folder = shutil.copytree(sample, tmp_path / "copy")
    paths = sorted(folder.glob("sample-*.parquet"))
    before = [path.stat().st_mtime_ns for path in paths]
    write_sample(folder)
    assert [path.stat().st_mtime_ns for path in paths] == before
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    (folder / "facts.json").write_text("[]")
    write_sample(folder)
    assert {name: sha256(folder / name) for name in known["files"]} == known["files"]
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == {
        path.name: path.read_bytes() for path in sample.glob("*.json")
    }
    assert {path.name for path in folder.iterdir()} == {path.name for path in sample.iterdir()}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "file"))):
        write_sample(tmp_path / "file")


def test_only_planted_pages_are_alike(rows, known):
    planted = {id for kind in ("exact_duplicates", "near_duplicates") for pair in known["planted"][kind] for id in pair}
    huge = set(known["planted"]["huge"])
    plain = [id for id, row in rows.items() if row["text"] and id not in planted | huge]
    assert len(plain) > 6000
    assert list(alike([rows[id]["text"] for id in plain], over=0.4)) == []


def test_the_search_for_alike_pages_would_find_one(rows, known):
    original, copy = known["planted"]["near_duplicates"][0]
    assert list(
        alike(["something else entirely, not to be found", rows[original]["text"], rows[copy]["text"]], 0.4)
    ) == [(1, 2)]


def test_planted_duplicates_are_what_they_are_called(rows, known):
    for original, copy in known["planted"]["exact_duplicates"]:
        assert rows[original]["text"] == rows[copy]["text"]
        assert rows[original]["url"] != rows[copy]["url"]
    for original, copy in known["planted"]["near_duplicates"]:
        assert 0.8 <= jaccard(rows[original]["text"], rows[copy]["text"]) < 1
    assert min(len(known["planted"][kind]) for kind in ("exact_duplicates", "near_duplicates")) >= 10


def test_what_trips_a_pipeline_is_there(rows, known):
    planted = known["planted"]
    assert all(rows[id]["url"] is None for id in planted["null_url"])
    assert all(rows[id]["text"] == "" for id in planted["empty_text"])
    assert all(len(rows[id]["text"]) >= 1_000_000 for id in planted["huge"])
    assert all(rows[id]["language"] != "en" for id in planted["not_english"])
    assert all("<eos>" in rows[id]["text"] for id in planted["end_token"])
    assert all(planted[kind] for kind in ("null_url", "empty_text", "huge", "not_english", "end_token", "mixed"))


def test_a_domain_is_large_and_spread_over_many_sites(rows, known):
    for domain in DOMAINS:
        pages = [rows[id] for id in known["pages"][domain]]
        assert sum(len(page["text"]) for page in pages) > 1_600_000
        hosts = Counter(urlsplit(page["url"]).hostname for page in pages if page["url"])
        assert len(hosts) >= 60
        assert max(hosts.values()) < 0.1 * len(pages)


def test_facts_are_stated_often_and_their_paraphrases_never(rows, known):
    texts = {domain: "\n".join(rows[id]["text"] for id in known["pages"][domain]) for domain in DOMAINS}
    assert {fact["type"] for fact in known["facts"]} == {"entity", "number", "definition", "relation", "procedure"}
    for fact in known["facts"]:
        assert all(statement.endswith(fact["answer"]) for statement in fact["statements"] + fact["paraphrases"])
        assert sum(texts[fact["domain"]].count(statement) for statement in fact["statements"]) >= 20
        assert not any(paraphrase in text for paraphrase in fact["paraphrases"] for text in texts.values())
        assert len({fact["answer"], *fact["distractors"]}) == 4
    mentions = Counter(fact["domain"] for fact in known["facts"])
    assert all(30 <= mentions[domain] <= 60 for domain in DOMAINS)


def test_every_page_has_one_label_one_address_and_finished_text(rows, known):
    labelled = [id for ids in known["pages"].values() for id in ids]
    assert len(labelled) == len(rows)
    assert set(labelled) == set(rows)
    addresses = [row["url"] for row in rows.values() if row["url"]]
    assert len(set(addresses)) == len(addresses)
    unfinished = re.compile(r"<\+?[a-z_]+>|<\d|[(|)]|\ba [aeio]|  | [.,]")
    for row in rows.values():
        text = re.sub(r"<eos>|Home \| About \| Contact|\(\d+ answers\)|\(see ticket \d+\)", "-", row["text"])
        if row["language"] == "en":
            assert not unfinished.search(text), unfinished.search(text)


def test_pages_of_a_domain_name_its_subjects_and_never_the_other_s(rows, known):
    subjects = {domain: {fact["subject"] for fact in known["facts"] if fact["domain"] == domain} for domain in DOMAINS}
    for domain, other in (DOMAINS, DOMAINS[::-1]):
        for id in known["pages"][domain]:
            assert any(subject in rows[id]["text"] for subject in subjects[domain])
            assert not any(subject in rows[id]["text"] for subject in subjects[other])
    mixed = [rows[id]["text"] for id in known["pages"]["mixed"]]
    assert all(any(subject in text for subject in subjects[domain]) for text in mixed for domain in DOMAINS)


def test_no_page_states_a_distractor(rows, known):
    text = "\n".join(row["text"] for row in rows.values())
    for fact in known["facts"]:
        prompts = [statement.removesuffix(fact["answer"]) for statement in fact["statements"]]
        assert not any(prompt + wrong in text for prompt in prompts for wrong in fact["distractors"])


def voice(seed: int = 0, **lists: list[str]) -> Voice:
    return Voice(lists, random.Random(seed))


@given(st.integers(), st.integers(1, 20))
def test_a_voice_says_every_entry_before_it_repeats_one(seed: int, count: int) -> None:
    speaker = voice(seed, word=[f"word {i}" for i in range(count)])
    assert len({speaker.draw("word") for _ in range(count)}) == count


@given(st.integers())
def test_a_voice_keeps_plain_slots_and_renews_the_others(seed: int) -> None:
    kept, again, fresh, also = voice(seed, word=["one", "two", "three"]).speak("<word> <word> <+word> <+word>").split()
    assert kept == again
    assert len({kept, fresh, also}) == 3


@given(st.integers())
def test_a_voice_chooses_counts_and_nests(seed: int) -> None:
    said = voice(seed, size=["<20-90/5>"]).speak("(about|over) <size>")
    word, number = said.split()
    assert word in ("about", "over")
    assert int(number) in range(20, 91, 5)


@pytest.mark.parametrize(
    "said", ["an apple", "an 8", "an 11", "an 18", "a pear", "a used pear", "a one", "a 12", "A, e"]
)
def test_a_voice_knows_its_articles(said: str) -> None:
    assert voice().speak(said.replace("an ", "a ")) == said
