"""A storage in a bucket, against a local S3: what travels, in which order, and what does not."""

from pathlib import Path

import pytest
import yaml

from grid.spec import load_grid
from lethe import bucket as module
from lethe.bucket import SMALL, Bucket
from lethe.config import UserError

STAGE = {"model.safetensors": "w" * (SMALL + 1), "curves/a.parquet": "c", "curves/a.json": "{}", "stage.json": "{}"}
GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "baselines": ["sequential_ab"],
    "stage": {"tokens": 25_600, "batch": 8, "learning_rate": 6e-3},
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def read(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_what_is_sent_by_one_machine_is_got_by_another(bucket, tmp_path):
    here, there = Bucket(bucket, tmp_path / "here"), Bucket(bucket, tmp_path / "there")
    write(here.root / "runs/stages/key", STAGE | {".stage.json.host.1-1": "half", "own.lock": "", "lock": ""})
    here.push(here.root / "runs")
    there.pull(there.root / "runs/stages", "stage.json", "curves/*")
    assert read(there.root / "runs/stages/key").keys() == STAGE.keys() - {"model.safetensors"}
    there.pull(there.root / "runs/stages/key/model.safetensors")
    assert read(there.root / "runs/stages/key") == STAGE
    there.pull(there.root / "runs/stages/nothing")
    assert not (there.root / "runs/stages/nothing").exists()


def test_what_says_that_something_is_finished_travels_last(bucket, tmp_path, monkeypatch):
    sent: list[str] = []
    here = Bucket(bucket, tmp_path)
    write(tmp_path / "runs/stages/key", STAGE)
    each = module._each
    monkeypatch.setattr(module, "_each", lambda names, do: each(names, lambda name: (do(name), sent.append(name))))
    here.push(tmp_path / "runs")
    assert {Path(name).suffix for name in sent[:2]} == {".safetensors", ".parquet"}
    assert [Path(name).name for name in sent[2:]] == ["a.json", "stage.json"]


def test_a_small_file_that_changed_at_the_same_length_is_sent_again_and_a_large_one_is_not(bucket, tmp_path):
    here, there = Bucket(bucket, tmp_path / "here"), Bucket(bucket, tmp_path / "there")
    write(here.root, {"data/food.json": "1", "data/food.bin": "1" * (SMALL + 1)})
    here.push(here.root / "data")
    write(here.root, {"data/food.json": "2", "data/food.bin": "2" * (SMALL + 1)})
    here.push(here.root / "data")
    there.pull(there.root / "data")
    assert {name: text[0] for name, text in read(there.root / "data").items()} == {"food.json": "2", "food.bin": "1"}


def test_exactly_what_is_here_stays_there(bucket, tmp_path):
    here = Bucket(bucket, tmp_path)
    write(tmp_path, {"partial/1/state.json": "{}", "partial/2/state.json": "{}", "stage.json": "{}"})
    here.push(tmp_path / "partial")
    here.push(tmp_path / "stage.json")
    (tmp_path / "partial/1/state.json").unlink()
    here.push(tmp_path / "partial", exactly=True)
    other = Bucket(bucket, tmp_path / "other")
    other.pull(other.root / "partial")
    other.pull(other.root / "stage.json")
    assert read(other.root).keys() == {"partial/2/state.json", "stage.json"}


def test_it_is_checked_by_a_small_write_and_read(bucket, tmp_path):
    Bucket(bucket, tmp_path).check()
    wrong = bucket.replace("s3://bucket/", "s3://another/")
    with pytest.raises(
        UserError, match=r"storage: found s3://another/.*, where nothing can be written, read and deleted"
    ):
        Bucket(wrong, tmp_path).check()


def test_options_stay_at_the_end_of_an_address(tmp_path):
    found = Bucket("s3://bucket/folder?region=eu", tmp_path).uri_of(tmp_path / "runs" / "grid")
    assert found == "s3://bucket/folder/runs/grid?region=eu"


def test_a_bucket_that_answers_again_is_asked_again(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    failures = iter([OSError("cut"), OSError("cut")])
    there = Bucket._there

    def cut(self, path):
        for failure in failures:
            raise failure
        return there(self, path)

    monkeypatch.setattr(Bucket, "_there", cut)
    write(tmp_path, {"data/a.json": "1"})
    Bucket(bucket, tmp_path).push(tmp_path / "data")
    other = Bucket(bucket, tmp_path / "other")
    other.pull(other.root / "data")
    assert read(other.root) == {"data/a.json": "1"}


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "s3://key:secret@bucket/folder",
            "found a URI with credentials; allowed: without, they come from the environment",
        ),
        ("ftp://bucket/folder", "found 'ftp://bucket/folder'; allowed: s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
        ("s3://", "found 's3://'; allowed: s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
    ],
)
def test_a_storage_that_is_no_bucket_of_a_known_kind_is_refused(tmp_path, uri, message):
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(GRID | {"storage": uri}))
    with pytest.raises(UserError) as caught:
        load_grid(tmp_path / "g.yaml")
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_storage_in_a_bucket_has_its_copy_in_the_cache_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("LETHE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(GRID))
    grid, other = (load_grid(tmp_path / "g.yaml", [f"storage=s3://bucket/{name}"]) for name in ("one", "two"))
    assert grid.storage.parent == other.storage.parent == tmp_path / "cache"
    assert grid.storage != other.storage
    assert grid.mirror == Bucket("s3://bucket/one", grid.storage)
    assert load_grid(tmp_path / "g.yaml", [f"storage={tmp_path}"]).mirror is None
