"""What is told of work that goes on."""

import sys

import pytest

from lethe.progress import RowProgress


@pytest.mark.parametrize(("live", "lines"), [(False, 1), (True, 1)])
def test_progress_is_one_line_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, live: bool, lines: int
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: live)
    progress = RowProgress("scanned", 1000)
    progress.done(250, 1_000_000, 10)
    progress.done(750, 1_000_000, 5)
    progress.end()
    said = capsys.readouterr().err
    assert said.count("\n") == lines
    assert said.count("\r") == (3 if live else 0)
    assert "scanned 1,000 of 1,000 rows" in said.rstrip("\n").split("\r")[-1]
    assert said.endswith("kept 15\n")
