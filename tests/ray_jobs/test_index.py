"""The programs that index and survey a source, as they are run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alone import run_alone
from misbehaving import serve

from lethe.config import UserError
from lethe.corpora import remote
from lethe.corpora.index import Index, index_unit
from lethe.corpora.make import make_index
from lethe.corpora.schema import FINEWEB
from lethe.corpora.source import open_source
from lethe.files import sha256

GRID = """
source: pages/*.parquet
corpora: [food, automotive]
models: [toy, tiny]
baselines: [sequential_ab]
stage: {tokens: 100_000, batch: 8, learning_rate: 0.001}
"""


def page(i: int) -> dict[str, Any]:
    text = "Stir the onion soup, add garlic and butter, then bake the bread in the oven. " if i % 10 == 0 else "News. "
    return {
        "text": f"Page {i}. " + text * 20,
        "id": f"<urn:uuid:{i}>",
        "dump": "CC-TEST",
        "url": f"https://www.site{i % 40}.co.uk/{i}",
        "language": "en",
        "language_score": 0.9,
        "token_count": 100,
    }


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("index")
    (storage / "pages").mkdir()
    (storage / "grid.yaml").write_text(GRID)
    for i in range(4):
        rows = pa.Table.from_pylist([page(400 * i + j) for j in range(400)], FINEWEB)
        pq.write_table(rows, storage / "pages" / f"{i}.parquet", row_group_size=50)
    return storage


def run(program: str, storage: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_alone(program, storage / "grid.yaml", f"storage={storage}", *arguments)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def index(storage: Path) -> Index:
    """Made without Ray."""
    index = Index(open_source("pages/*.parquet", storage), storage)
    for unit in index.missing_units():
        index_unit(unit, index.folder)
    index.finish()
    return index


def test_a_finished_index_is_only_named(storage: Path, index: Index) -> None:
    before = {path: path.stat().st_mtime_ns for path in index.folder.rglob("*")}
    done = run("index", storage)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [
        "1,600 rows, 160,000 tokens in 4 files",
        "rows without a part: none",
    ]
    assert json.loads((index.root / "index.json").read_text()) == {"folder": index.folder.name}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_survey_of_all_rows_is_the_truth_on_paper_as_json_and_as_a_picture(storage: Path, index: Index) -> None:
    done = run("survey", storage, "--json", "stage.max_epochs=20")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    survey = json.loads(line)
    assert survey == json.loads((index.folder / "survey.json").read_text())
    food = survey["domains"]["food"]
    assert (food["documents"]["low"], food["documents"]["high"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert food["sites"]["sampled"] == 4
    assert {site["source_documents"] for site in food["sites"]["top"]} == {40}
    assert survey["domains"]["automotive"]["sampled"] == 0
    assert survey["binds"] == "automotive"
    assert list(survey["models"]) == ["toy", "tiny"]
    assert survey["plan"]["food"]["tokens"] == pytest.approx(100_000, rel=0.02)
    assert survey["plan"]["food"]["verdict"] == "epochs"
    assert survey["plan"]["automotive"]["verdict"] == "short"
    assert "plotly" in (index.folder / "survey.html").read_text()
    told = run("survey", storage, "--rows", "300")
    assert told.returncode == 0, told.stderr
    assert "95 % intervals" in told.stdout
    assert told.stdout.splitlines()[-1] == f"picture  {index.folder / 'survey.html'}"


@pytest.mark.parametrize("program", ["index", "survey", "extract"])
def test_a_source_that_is_not_there_exits_with_2(storage: Path, program: str) -> None:
    command = [sys.executable, "-m", f"ray_jobs.{program}", str(storage / "grid.yaml"), f"storage={storage}"]
    done = subprocess.run([*command, "source=nowhere/*"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("source: found 'nowhere/*'")
    assert len(done.stderr.splitlines()) == 1


def test_a_sample_of_no_rows_is_refused(storage: Path) -> None:
    command = [sys.executable, "-m", "ray_jobs.survey", str(storage / "grid.yaml"), f"storage={storage}", "--rows", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "--rows: found 0; allowed: a number from 1\n")


def test_a_source_that_breaks_is_told_as_soon_as_it_is_known(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    with serve(storage / "pages") as server:
        server.fault = lambda number, path: "503" if number >= 4 and not path.endswith("0.parquet") else ""
        with pytest.raises(UserError, match=r"/1\.parquet: still broken after 8 tries"):
            make_index(f"{server.url}/files/", tmp_path)
        assert {path for _, path, fault in server.asked if fault} == {"/files/1.parquet"}
        server.fault = lambda number, path: ""
        asked = len(server.asked)
        assert make_index(f"{server.url}/files/", tmp_path).manifest is not None
        again = [path for _, path, _ in server.asked[asked:]]
        assert again.count("/files/0.parquet") == 1  # its footer, when it is listed


@pytest.mark.slow
@pytest.mark.ray
def test_with_ray_the_bytes_are_the_same(storage: Path, tmp_path: Path, index: Index) -> None:
    shutil.copytree(storage / "pages", tmp_path / "pages")
    command = [sys.executable, "-m", "ray_jobs.index", str(storage / "grid.yaml"), f"storage={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "data" / "index" / index.folder.name
    expected = {name: value for name, value in hashes(index.folder).items() if not name.startswith("survey.")}
    assert hashes(made) == expected
