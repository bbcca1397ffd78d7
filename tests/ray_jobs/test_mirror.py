"""The storage of a grid before anything starts: can it be used, and, of one in a bucket, are its data here?"""

import pytest
import yaml

from grid.spec import load_grid
from lethe.config import UserError
from ray_jobs.mirror import mirrored

GRID = {
    "corpora": ["food", "automotive"],
    "models": ["toy"],
    "baselines": ["sequential_ab"],
    "stage": {"tokens": 25_600, "batch": 8, "learning_rate": 6e-3},
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(yaml.safe_dump(GRID))
    return path


def test_a_storage_that_cannot_be_written_is_refused_by_name(config, tmp_path):
    (tmp_path / "file").touch()
    grid = load_grid(config, [f"storage={tmp_path / 'file' / 'below'}"])
    refused = pytest.raises(UserError, match=r"storage: found .*/file/below, where nothing can be written and read: ")
    with refused, mirrored(grid):
        raise AssertionError("nothing may start")


def test_one_that_can_is_left_as_it_was(config, tmp_path):
    with mirrored(load_grid(config, [f"storage={tmp_path / 'new'}"])):
        assert list((tmp_path / "new").iterdir()) == []


def test_data_made_on_one_machine_are_there_on_the_next(config, tmp_path, bucket, monkeypatch):
    def storage(machine: str):
        monkeypatch.setenv("LETHE_CACHE", str(tmp_path / machine))
        return load_grid(config, [f"storage={bucket}"])

    with mirrored(one := storage("one")):
        (one.storage / "data" / "tokens").mkdir(parents=True)
        (one.storage / "data" / "tokens" / "meta.json").write_text("{}")
    with mirrored(two := storage("two")):
        assert (two.storage / "data" / "tokens" / "meta.json").read_text() == "{}"
    assert one.storage != two.storage


def test_a_bucket_that_is_not_there_is_refused_before_anything_is_got(config, tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("LETHE_CACHE", str(tmp_path / "cache"))
    grid = load_grid(config, [f"storage={bucket.replace('s3://bucket/', 's3://another/')}"])
    with pytest.raises(UserError, match=r"storage: found s3://another/"), mirrored(grid):
        raise AssertionError("nothing may start")
    assert not (tmp_path / "cache").exists()
