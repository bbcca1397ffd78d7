"""Corpora that the datasets library loads, in every form, against the same texts written by hand."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from misbehaving import REVISION, serve

from grid.spec import load_grid
from lethe.config import RawConfig, UserError, read_yaml, validate
from lethe.corpora import dataset
from lethe.corpora.dataset import DatasetCorpus, open_dataset
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import open_extraction
from lethe.corpora.make import make_corpora
from lethe.corpora.select import PAGES
from lethe.files import sha256

WORDS = [f"word{i}" for i in range(2000)]


def story(number: int, length: int = 40) -> str:
    rng = random.Random(number)
    return f"Story {number}, “told” twice: " + " ".join(rng.choices(WORDS, k=length))


STORIES = [story(i) for i in range(2300)]


def corpus(path: str, **fields: Any) -> DatasetCorpus:
    asked = {"path": path} | fields.pop("dataset", {})
    return validate(DatasetCorpus, RawConfig("x", {"description": "stories", "dataset": asked} | fields, {}))


def make(storage: Path, path: str, **fields: Any) -> Path:
    return make_corpora("nowhere", {"stories": corpus(path, **fields)}, storage)["stories"]


def read(folder: Path) -> dict[str, pa.Table]:
    return {part: pq.read_table(folder / part) for part in ("train", "val")}


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows_of(texts: list[str]) -> list[dict[str, Any]]:
    return [{"text": text, "number": i} for i, text in enumerate(texts)]


def write_form(form: str, root: Path, texts: list[str]) -> str:
    """Write the texts in a form; the path to give."""
    rows = rows_of(texts)
    if form == "jsonl":
        write_lines(root / "s.jsonl", rows)
    elif form == "csv":
        Dataset.from_list(rows).to_csv(root / "s.csv")
    elif form == "txt":
        (root / "s.txt").write_text("\n".join(texts), encoding="utf-8")
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), root / "s.parquet", row_group_size=700)
    elif form == "folder":
        write_lines(root / "s" / "train.jsonl", rows)
        write_lines(root / "s" / "validation.jsonl", rows_of(["another"]))
    elif form == "saved":
        Dataset.from_list(rows).save_to_disk(root / "s")
    elif form == "saved splits":
        DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows_of(["another"]))).save_to_disk(
            root / "s"
        )
    return "s" if "." not in (name := next(path for path in root.iterdir() if path.name[0] == "s").name) else name


FORMS = ["jsonl", "csv", "txt", "parquet", "folder", "saved", "saved splits"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("expected")
    return make(storage, write_form("jsonl", storage, STORIES))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_corpus(form: str, tmp_path: Path, expected: Path) -> None:
    folder = make(tmp_path, write_form(form, tmp_path, STORIES))
    found = manifest(folder)
    assert found["files"] == manifest(expected)["files"]
    assert {name: sha256(folder / name) for name in found["files"]} == {
        name: facts["sha256"] for name, facts in found["files"].items()
    }
    assert found["documents"] == len(STORIES)


def test_what_a_document_becomes(expected: Path) -> None:
    tables = read(expected)
    rows = [row for table in tables.values() for row in table.to_pylist()]
    assert {table.schema for table in tables.values()} == {PAGES}
    assert sorted(row["text"] for row in rows) == sorted(STORIES)
    for row in rows:
        number = int(row["text"].split(",")[0].split()[1])
        assert row["id"] == f"stories/train/00000/{number}"
        assert row["token_count"] == -(-len(row["text"].encode()) // 4)
        assert (row["url"], row["host"], row["score"]) == (None, None, 0)
    held = sum(tables["val"]["token_count"].to_pylist()) / sum(row["token_count"] for row in rows)
    assert 0.04 < held <= 0.05


def test_a_budget_moves_without_reading_again(tmp_path: Path) -> None:
    write_lines(tmp_path / "s.jsonl", rows_of(STORIES[:300]))
    whole = make(tmp_path, "s.jsonl")
    tokens = manifest(whole)["tokens"]
    (units,) = (tmp_path / "data" / "corpora").glob("units-*/00000/manifest.json")
    written = units.stat().st_mtime_ns
    half = manifest(make(tmp_path, "s.jsonl", tokens=tokens // 2, val_share=0.2))
    assert tokens * 0.45 < half["tokens"] <= tokens // 2
    assert half["rejects"]["over_budget"] > 0
    assert units.stat().st_mtime_ns == written


def test_the_same_data_elsewhere_are_the_same_corpus_and_others_are_not(tmp_path: Path) -> None:
    def name(path: str, **fields: Any) -> str:
        return open_extraction("nowhere", {"stories": corpus(path, **fields)}, tmp_path).folders["stories"].name

    write_lines(tmp_path / "s.jsonl", rows_of(STORIES[:50]))
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=lambda *_: {"copy"})
    first = name("s.jsonl")
    assert {name("copy/s.jsonl"), name(str(tmp_path / "copy" / "s.jsonl")), name("copy/*.jsonl")} == {first}
    assert name("s.jsonl", dataset={"text": "other"}) != first
    text = (tmp_path / "s.jsonl").read_text()
    (tmp_path / "s.jsonl").write_text(text.replace("Story 7,", "Story 8,"))  # as many bytes
    assert name("s.jsonl") != first


@pytest.mark.parametrize("form", ["folder of files", "saved"])
def test_a_data_set_of_several_parts_killed_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(dataset, "SAVED_ROWS", 100)
    if form == "saved":
        Dataset.from_list(rows_of(STORIES[:300])).save_to_disk(tmp_path / "s")
    else:
        for i in range(3):
            write_lines(tmp_path / "s" / f"train-{i}.jsonl", rows_of(STORIES[100 * i : 100 * i + 100]))
    calm = manifest(make(tmp_path, "s"))
    assert sorted(row["text"] for table in read(make(tmp_path, "s")).values() for row in table.to_pylist()) == sorted(
        STORIES[:300]
    )
    shutil.rmtree(tmp_path / "data")
    extraction = open_extraction("nowhere", {"stories": corpus("s")}, tmp_path)
    documents = extraction.documents["stories"]
    assert documents.units == ["00000", "00001", "00002"]
    documents.write("00001")
    half = documents.folder / "00002" / ".part-00000.parquet.99"
    half.parent.mkdir()
    half.write_bytes(b"PAR1 half a file")
    assert documents.missing == ["00000", "00002"]
    assert manifest(make(tmp_path, "s")) == calm


def test_with_domains_copies_are_found_over_all(tmp_path: Path, toy: Any) -> None:
    """A page of a domain stays, and its exact and near copies among the documents go."""
    rng = random.Random(3)
    pages = [" ".join(rng.choice(toy.soup) if n % 4 == 0 else rng.choice(WORDS) for n in range(120)) for _ in range(60)]
    toy.write(tmp_path / "pages" / "0.parquet", [toy.page(page, i) for i, page in enumerate(pages)])
    near = [page.replace(page.split()[61], "replaced", 1) for page in pages[10:20]]
    write_lines(tmp_path / "s.jsonl", rows_of([*STORIES[:100], *pages[:10], *near]))
    corpora = {"soup": toy.corpora["soup"], "stories": corpus("s.jsonl", val_share=0.2)}
    folders = make_corpora("pages", corpora, tmp_path)
    found = {name: manifest(folder) for name, folder in folders.items()}
    assert found["soup"]["documents"] == 60
    assert found["stories"]["documents"] == 100
    assert (found["stories"]["rejects"]["duplicate"], found["stories"]["rejects"]["near_duplicate"]) == (10, 10)
    assert set(found["soup"]["overlap"]) == {"soup", "stories"}
    assert {found[name]["units"]["folder"] for name in found} == {
        path.name for path in (tmp_path / "data" / "corpora").glob("units-*")
    }


def test_rows_without_a_text_are_counted(tmp_path: Path) -> None:
    write_lines(tmp_path / "s.jsonl", [*rows_of(STORIES[:40]), {"text": None}, {"text": ""}, {"number": 3}])
    found = manifest(make(tmp_path, "s.jsonl"))
    assert (found["documents"], found["rejects"]["no_text"]) == (40, 3)


def test_csv_texts_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(
        "text\n" + "\n".join(["123", "NA", "1e5", '"a, ""b"""', *(f'"{text}"' for text in STORIES[:40])])
    )
    texts = {row["text"] for table in read(make(tmp_path, "s.csv")).values() for row in table.to_pylist()}
    assert {"123", "NA", "1e5", 'a, "b"'} < texts


def wrong(root: Path, form: str) -> tuple[str, dict[str, Any]]:
    """What is wrong with a corpus: its path and fields."""
    write_lines(root / "s.jsonl", rows_of(STORIES[:30]))
    write_lines(root / "folder" / "train.jsonl", rows_of(STORIES[:30]))
    Dataset.from_list(rows_of(STORIES[:30])).save_to_disk(root / "saved")
    (root / "script").mkdir()
    for path in (root / "script" / "script.py", root / "s.py"):
        path.write_text(f"open({str(root / 'ran')!r}, 'w')")
    for name in ("empty.jsonl", "empty.txt"):
        (root / name).write_text("")
    (root / "cut.jsonl").write_text('{"text": "a"}\n{"text": "cu')
    (root / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    write_lines(root / "numbers.jsonl", [{"text": i} for i in range(30)])
    return form.split()[0], {"dataset": dict(pair.split("=") for pair in form.split()[1:])}


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            "nothing.jsonl",
            r"dataset\.path: found 'nothing\.jsonl', which is not there; allowed: ORG/NAME of a data set",
        ),
        ("nowhere", r"dataset\.path: found 'nowhere', which is not there; allowed: "),
        ("folder split=test", r"dataset\.split: found 'test'; allowed: train"),
        ("saved split=test", r"dataset\.split: found 'test'; allowed: train"),
        ("s.jsonl text=story", r"dataset\.text: found 'story'; allowed: a column: text, number"),
        ("saved text=story", r"dataset\.text: found 'story'; allowed: a column: text, number"),
        ("numbers.jsonl", r"dataset\.text: found 'text' of type int64; allowed: a string column"),
        ("script", r"dataset\.path: found 'script', which cannot be read: .*; allowed: "),
        ("s.py", r"dataset\.path: found files of \.py; allowed: of one of \.jsonl, "),
        ("s.*", r"dataset\.path: found files of \.jsonl, \.py; allowed: of one of "),
        ("empty.jsonl", r"dataset\.path: found 'empty\.jsonl', which cannot be read: it is empty; allowed: "),
        ("empty.txt", r"found 0 documents, too few to hold out 5% .*; allowed: a larger data set"),
        ("cut.jsonl", r"dataset\.path: found 'cut\.jsonl', which cannot be read: .*JSON"),
        ("latin.jsonl", r"found 0 documents, too few .* \(rejected: bad_utf8 1\); allowed: a larger data set"),
        ("folder name=other", r"dataset\.path: found 'folder', which cannot be read: .*'other' not found"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_run(tmp_path: Path, form: str, message: str) -> None:
    path, fields = wrong(tmp_path, form)
    with pytest.raises(UserError, match=rf"(?s)^corpus stories: {message}"):
        make(tmp_path, path, **fields)
    assert not (tmp_path / "ran").exists()


def test_fields_that_are_not_there() -> None:
    with pytest.raises(UserError, match=r"found unknown field 'words'; allowed: description, .*dataset"):
        corpus("s.jsonl", words=["a"])
    with pytest.raises(UserError, match=r"dataset: found unknown field 'trust_remote_code'; allowed: path, name, "):
        corpus("s.jsonl", dataset={"trust_remote_code": True})


GRID = """
corpora: [tinystories]
models: [tiny]
baselines: [{one: [tinystories]}]
stage: {tokens: 100000, batch: 8, learning_rate: 0.001}
"""


@pytest.fixture
def grid(tmp_path: Path) -> Callable[..., Any]:
    def load(text: str, *overrides: str) -> Any:
        (tmp_path / "grid.yaml").write_text(text)
        return load_grid(tmp_path / "grid.yaml", [f"storage={tmp_path}", *overrides])

    return load


def test_a_grid_names_either_kind_and_an_override_reaches_into_it(grid: Callable[..., Any]) -> None:
    found = grid(GRID, "corpora.tinystories.dataset.path=s.jsonl", "corpora.tinystories.tokens=9").corpora[
        "tinystories"
    ]
    plain = grid(GRID).corpora["tinystories"]
    assert isinstance(found, DatasetCorpus)
    assert found == plain.model_copy(
        update={"tokens": 9, "dataset": plain.dataset.model_copy(update={"path": "s.jsonl"})}
    )
    both = grid(GRID.replace("[tinystories]\nm", "[tinystories, food]\nm"), "corpora.food.min_score=50").corpora
    assert isinstance(both["food"], CorpusConfig)
    assert (both["food"].min_score, both["food"].words) == (
        50,
        grid(GRID, "corpora=[food]", "baselines=[{a: [food]}]").corpora["food"].words,
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("corpora.tinystories.dataset.split=a b", r"corpora\.tinystories\.dataset\.split: found 'a b'; allowed: "),
        ("corpora.tinystories.val_share=2", r"corpora\.tinystories\.val_share: found 2; allowed: "),
        ("corpora.tinystores.tokens=2", r"found 'tinystores' \(did you mean 'tinystories'\?\); allowed: automotive"),
        ("corpora.tinystories.min_score=2", r"corpora\.tinystories: found unknown field 'min_score'; allowed: "),
        ("corpora.tinystories.dataset.spilt=2", r"corpora\.tinystories\.dataset: found unknown field 'spilt'"),
    ],
)
def test_a_grid_s_mistakes_are_named(grid: Callable[..., Any], override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        grid(GRID, override)


def test_programs_that_need_a_domain_say_so(grid: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"corpora: found data sets only; allowed for a program: at least one domain"):
        grid(GRID).domains("a program")


def test_the_shipped_corpus_is_one() -> None:
    path = dataset.__file__ and Path(dataset.__file__).parents[3] / "configs" / "corpora" / "tinystories.yaml"
    assert validate(DatasetCorpus, read_yaml(path)).dataset.path == "roneneldan/TinyStories"


HUB = """
import sys
from pathlib import Path
from lethe.config import RawConfig, validate
from lethe.corpora.dataset import DatasetCorpus
from lethe.corpora.make import make_corpora
asked = {"path": "org/name", "revision": sys.argv[2] or None}
corpus = validate(DatasetCorpus, RawConfig("x", {"description": "d", "dataset": asked}, {}))
print(make_corpora("nowhere", {"stories": corpus}, Path(sys.argv[1]))["stories"])
"""


@pytest.mark.parametrize("revision", ["", REVISION])
def test_a_hub_s_data_set_is_known_by_its_commit(tmp_path: Path, expected: Path, revision: str) -> None:
    (tmp_path / "pages").mkdir()
    write_form("parquet", tmp_path / "pages", STORIES)
    with serve(tmp_path / "pages") as server:
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-c", HUB, str(tmp_path), revision]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = manifest(Path(done.stdout.strip()))
    assert found["dataset"] == {"hub": "org/name", "commit": REVISION}
    assert found["files"] == manifest(expected)["files"]


def test_a_hub_that_does_not_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"found 'org/other', which does not lie in storage and is not got from the hub"
    ):
        open_dataset("stories", corpus("org/other"), tmp_path)
