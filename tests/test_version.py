"""Which state of the code is told: the commit of a checkout, whether it was changed, else the package's version."""

import subprocess
from importlib.metadata import version

from lethe.version import code, commit


def test_a_checkout_is_told_by_its_commit_and_whether_it_was_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("lethe.version.ROOT", tmp_path)
    told = commit.__wrapped__
    assert told() is None

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", tmp_path, *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "file").write_text("one")
    git("init")
    git("add", "src")
    git("commit", "-m", "first")
    git("tag", "v1")
    assert told() == git("rev-parse", "HEAD").strip()
    (tmp_path / "notes").touch()
    assert told() == git("rev-parse", "HEAD").strip()
    (tmp_path / "src" / "new").touch()
    assert told() == git("rev-parse", "HEAD").strip() + "-dirty"


def test_without_a_checkout_it_is_the_package_that_is_told(monkeypatch):
    monkeypatch.setattr("lethe.version.commit", lambda: None)
    assert code() == version("lethe")
