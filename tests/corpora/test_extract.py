import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig, load_corpus_config
from lethe.corpora.extract import Extraction, scan_unit
from lethe.corpora.merge import merge
from lethe.corpora.parquet import read_manifest
from lethe.corpora.select import PAGES
from lethe.corpora.source import open_source
from lethe.files import sha256


def rows_of(toy: Any) -> list[dict[str, Any]]:
    """120 pages of each subject, and what a merge has to deal with."""
    rows = [toy.page(toy.unlike((toy.soup, toy.car, toy.news)[i % 3], i), i) for i in range(360)]
    rows += [row | {"id": f"copy of {row['id']}", "url": "https://copies.example/"} for row in rows[:12]]
    rows += [toy.page(toy.unlike(toy.soup, 900 + i), 900 + i, url=None) for i in range(5)]
    return rows


@pytest.fixture
def storage(toy: Any, tmp_path: Path) -> Path:
    """A storage with the source `pages` of three files."""
    rows = rows_of(toy)
    for i in range(3):
        toy.write(tmp_path / "pages" / f"{i}.parquet", rows[i::3])
    return tmp_path


def begin(storage: Path, corpora: dict[str, CorpusConfig]) -> Extraction:
    return Extraction(open_source("pages", storage), corpora, storage)


def run(extraction: Extraction) -> dict[str, dict[str, Any]]:
    for unit in extraction.missing_units():
        scan_unit(unit, extraction.corpora, extraction.scan_folder)
    merge(extraction)
    return {name: json.loads((folder / "manifest.json").read_text()) for name, folder in extraction.folders.items()}


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def read(folder: Path) -> dict[str, Any]:
    return {part: pq.read_table(folder / part) for part in ("train", "val")}


def test_the_manifest_tells_what_the_files_hold(storage: Path, toy: Any) -> None:
    extraction = begin(storage, toy.corpora)
    for name, manifest in run(extraction).items():
        folder, splits = extraction.folders[name], read(extraction.folders[name])
        assert sum(manifest["rejects"].values()) + manifest["documents"] == manifest["source"]["rows"]
        assert {file: facts["sha256"] for file, facts in manifest["files"].items()} | {
            "manifest.json": sha256(folder / "manifest.json")
        } == files_of(folder)
        for part, table in splits.items():
            texts = table["text"].to_pylist()
            assert table.schema == PAGES
            assert manifest["splits"][part]["documents"] == len(texts) > 0
            assert manifest["splits"][part]["tokens"] == sum(table["token_count"].to_pylist())
            assert manifest["splits"][part]["text_bytes"] == sum(len(text.encode()) for text in texts)
        assert manifest["corpora"][name] == toy.corpora[name].model_dump(mode="json")
        assert manifest["source"]["fingerprint"] == extraction.source.fingerprint
    assert not extraction.missing_units(), "the units are kept, for an extraction with other thresholds"


def test_each_text_is_kept_once_over_all_corpora_and_splits(storage: Path, toy: Any) -> None:
    extraction = begin(storage, toy.corpora)
    manifests = run(extraction)
    texts = [text for f in extraction.folders.values() for t in read(f).values() for text in t["text"].to_pylist()]
    assert len(texts) == len(set(texts)) == 120 + 120 + 5
    assert sum(manifest["rejects"]["duplicate"] for manifest in manifests.values()) == 8


def test_the_split_is_by_host_and_keeps_its_share(storage: Path, toy: Any) -> None:
    extraction = begin(storage, toy.corpora)
    for name, manifest in run(extraction).items():
        splits = read(extraction.folders[name])
        assert manifest["split"] == "host"
        assert 0.16 <= manifest["splits"]["val"]["tokens"] / manifest["tokens"] <= 0.2
        held, kept = ({h for h in splits[part]["host"].to_pylist() if h} for part in ("val", "train"))
        assert not held & kept


def test_a_single_host_is_split_by_document(storage: Path, toy: Any) -> None:
    rows = [row | {"url": "https://one.example/"} for row in rows_of(toy)]
    for i in range(3):
        toy.write(storage / "pages" / f"{i}.parquet", rows[i::3])
    for manifest in run(begin(storage, toy.corpora)).values():
        assert manifest["split"] == "cluster"
        assert 0.16 <= manifest["splits"]["val"]["tokens"] / manifest["tokens"] <= 0.2


def test_a_budget_is_filled_and_not_exceeded(storage: Path, toy: Any) -> None:
    whole = begin(storage, toy.corpora)
    run(whole)
    corpora = {**toy.corpora, "soup": toy.corpora["soup"].model_copy(update={"tokens": 1020})}
    cut = begin(storage, corpora)
    manifest = run(cut)["soup"]
    assert cut.fingerprint != whole.fingerprint
    assert manifest["tokens"] == 1000
    assert manifest["rejects"]["over_budget"] == 125 - 20
    ids, all_ids = ({i for t in read(e.folders["soup"]).values() for i in t["id"].to_pylist()} for e in (cut, whole))
    assert len(ids) == 20
    assert ids < all_ids


def test_neither_order_nor_interruption_changes_a_byte(storage: Path, toy: Any) -> None:
    calm = begin(storage, toy.corpora)
    run(calm)
    expected = {name: files_of(folder) for name, folder in calm.folders.items()}
    shutil.rmtree(storage / "data")

    rough = begin(storage, dict(reversed(toy.corpora.items())))
    units = rough.source.units
    random.Random(1).shuffle(units)
    for unit in units[:2]:
        scan_unit(unit, rough.corpora, rough.scan_folder)
    (rough.scan_folder / units[0].id / "manifest.json").write_text('{"files": {"part-0')  # killed while writing
    half = rough.scan_folder / units[2].id / ".part-00000.parquet.99"
    half.parent.mkdir()
    half.write_bytes(b"PAR1 half a file")
    half_corpus = rough.folders["soup"] / "train" / "part-00000.parquet"
    half_corpus.parent.mkdir(parents=True)
    half_corpus.write_bytes(b"PAR1")
    assert rough.missing_units() == [unit for unit in rough.source.units if unit != units[1]]
    assert not rough.is_finished
    run(rough)
    assert {name: files_of(folder) for name, folder in rough.folders.items()} == expected


def test_a_finished_unit_is_not_scanned_again(storage: Path, toy: Any) -> None:
    extraction = begin(storage, toy.corpora)
    for unit in extraction.source.units:
        scan_unit(unit, toy.corpora, extraction.scan_folder)
    shutil.rmtree(storage / "pages")
    for unit in extraction.source.units:
        scan_unit(unit, toy.corpora, extraction.scan_folder)
    merge(extraction)
    assert extraction.is_finished


@pytest.mark.parametrize("harm", ["delete a part", "cut a part", "delete the manifest", "cut the manifest"])
def test_a_damaged_corpus_is_not_finished_and_is_made_again(storage: Path, toy: Any, harm: str) -> None:
    extraction = begin(storage, toy.corpora)
    run(extraction)
    before = {name: files_of(folder) for name, folder in extraction.folders.items()}
    folder = extraction.folders["soup"]
    path = folder / ("manifest.json" if "manifest" in harm else "val/part-00000.parquet")
    whole = path.read_bytes()
    path.unlink()
    if harm.startswith("cut"):
        path.write_bytes(whole[:-10])
    assert read_manifest(folder) is None
    assert read_manifest(extraction.folders["car"])
    run(extraction)
    assert {name: files_of(folder) for name, folder in extraction.folders.items()} == before


def test_a_corpus_too_small_to_split_says_why_pages_were_rejected(storage: Path, toy: Any) -> None:
    rare = CorpusConfig(description="nothing", words=("zebra", "quagga"), min_score=5, min_distinct_words=1)
    extraction = begin(storage, {**toy.corpora, "zebra": rare})
    with pytest.raises(UserError, match=r"corpus zebra: found 0 documents, .*off_topic 377"):
        run(extraction)
    assert not any(map(read_manifest, extraction.folders.values()))


def test_folders_depend_on_all_corpora_and_the_source_but_not_on_their_order(storage: Path, toy: Any) -> None:
    def folders_of(source: str, corpora: dict[str, CorpusConfig]) -> dict[str, Path]:
        return Extraction(open_source(source, storage), corpora, storage).folders

    folders = folders_of("pages", toy.corpora)
    assert list(folders) == ["soup", "car"]
    assert {folder.parent for folder in folders.values()} == {storage / "data" / "corpora"}
    assert folders_of("pages/*", dict(reversed(toy.corpora.items()))) == folders
    other = {**toy.corpora, "car": toy.corpora["car"].model_copy(update={"min_score": 51.0})}
    assert folders_of("pages", other)["soup"] != folders["soup"]
    assert folders_of("pages/0.parquet", toy.corpora)["soup"] != folders["soup"]


def test_name_json_names_the_newest_folder(storage: Path, toy: Any) -> None:
    extraction = begin(storage, toy.corpora)
    run(extraction)
    extraction.name_newest()
    newest = json.loads((storage / "data" / "corpora" / "soup.json").read_text())
    assert newest == {"folder": extraction.folders["soup"].name}


@pytest.fixture(scope="module")
def sample(sample_storage: Path) -> Extraction:
    corpora = {name: load_corpus_config(name) for name in ("food", "automotive")}
    extraction = Extraction(open_source("sample", sample_storage), corpora, sample_storage)
    run(extraction)
    return extraction


@pytest.mark.parametrize("name", ["food", "automotive"])
def test_the_sample_s_pages_are_found(sample: Extraction, name: str) -> None:
    facts = json.loads((sample.storage / "data" / "sample" / "facts.json").read_text())
    planted, pairs = facts["planted"], facts["planted"]["exact_duplicates"]
    found = {id_ for table in read(sample.folders[name]).values() for id_ in table["id"].to_pylist()}
    wanted = set(facts["pages"][name])
    single = wanted - {id_ for pair in pairs for id_ in pair}
    assert len(found & wanted) / len(found) >= 0.95
    assert len(found & single) / len(single) >= 0.95
    assert not found & {*planted["not_english"], *planted["empty_text"], *planted["huge"]}
    assert len(found & set(planted["mixed"])) <= len(planted["mixed"]) / 5
    assert not any(found >= set(pair) for pair in pairs)
