"""The program that extracts corpora, as it is run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alone import run_alone

from lethe.corpora.domains import load_corpus_config
from lethe.corpora.extract import Extraction, scan_unit
from lethe.corpora.merge import merge
from lethe.corpora.source import open_source
from lethe.files import sha256

GRID = """
corpora: [food, automotive]
models: [tiny]
baselines: [sequential_ab]
stage: {tokens: 100000, batch: 8, learning_rate: 0.001}
"""


@pytest.fixture
def storage(sample_storage: Path, tmp_path: Path) -> Path:
    shutil.copytree(sample_storage / "data" / "sample", tmp_path / "data" / "sample")
    (tmp_path / "grid.yaml").write_text(GRID)
    return tmp_path


def extract(storage: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_jobs.extract", str(storage / "grid.yaml"), f"storage={storage}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def extract_without_ray(storage: Path) -> Extraction:
    corpora = {name: load_corpus_config(name) for name in ("food", "automotive")}
    extraction = Extraction(open_source("sample", storage), corpora, storage)
    for unit in extraction.missing_units():
        scan_unit(unit, corpora, extraction.scan_folder)
    merge(extraction)
    return extraction


def hashes(extraction: Extraction) -> dict[Path, str]:
    files = [path for folder in extraction.folders.values() for path in folder.rglob("*") if path.is_file()]
    return {path: sha256(path) for path in sorted(files)}


def test_finished_corpora_are_only_named(storage: Path) -> None:
    extraction = extract_without_ray(storage)
    before = {path: path.stat().st_mtime_ns for path in hashes(extraction)}
    done = run_alone("extract", storage / "grid.yaml", f"storage={storage}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["corpus", "documents", "tokens"]
    assert [line.split()[0] for line in lines[1:5:2]] == ["food", "automotive"]
    assert lines[1].endswith(str(extraction.folders["food"]))
    assert "off_topic" in lines[2]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
@pytest.mark.ray
def test_with_ray_the_files_are_the_same_and_progress_is_told_apart(storage: Path) -> None:
    extraction = extract_without_ray(storage)
    expected = hashes(extraction)
    for folder in [*extraction.folders.values(), extraction.scan_folder]:
        shutil.rmtree(folder)
    done = extract(storage)
    assert done.returncode == 0, done.stderr
    assert hashes(extraction) == expected
    assert extraction.is_finished
    assert not extraction.missing_units()
    assert len(done.stdout.splitlines()) == 6
    assert done.stderr.splitlines()[-1].split("] ", 1)[1].startswith("scanned 7,082 of 7,082 rows, ")
    assert "\r" not in done.stderr


def test_a_plan_starts_nothing(storage: Path) -> None:
    (storage / "listing.csv").write_text("name,bytes,rows,tokens\na.parquet,1000000,400,200000\n")
    before = sorted(storage.rglob("*"))
    given = [storage / "grid.yaml", f"storage={storage}", "--plan", "--listing", storage / "listing.csv"]
    done = run_alone("extract", *given, "--sample", "data/sample")
    assert done.returncode == 0, done.stderr
    assert "1 files, 1,000,000 bytes, 400 rows" in done.stdout
    assert "of the source's; no budget" in done.stdout
    assert "on 16 cores like this one" in done.stdout
    assert "not known" not in done.stdout
    assert sorted(storage.rglob("*")) == before


def test_flags_of_a_plan_without_it(storage: Path) -> None:
    done = extract(storage, "--sample", "data/sample")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "--listing, --survey, --sample: found without --plan; allowed: with --plan\n"
