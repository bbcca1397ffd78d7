"""What is told of a grid that runs, and what another machine reads of it."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import time

import pytest

from grid.progress import SHOWN, Progress, describe, life, progress_file, read
from grid.spec import load_grid
from grid.tree import Tree


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(load_grid("configs/grids/quickstart.yaml", [f"storage={tmp_path}"]))


@pytest.fixture
def clock(monkeypatch):
    """Ten seconds pass between any two looks at the clock."""
    ticks = iter(range(0, 10_000, 10))
    monkeypatch.setattr("grid.progress.time.monotonic", lambda: float(next(ticks)))


def test_lines_count_what_is_left(tree, capsys, clock):
    progress = Progress(tree, set(tree.stages))
    cell, n = tree.cells[0], len(tree.cells)
    stage = cell.stages[0]
    progress.evaluated(cell.name, stage.identity, stage.steps, {"loss/food": 2.5, "bpb/food": 1.0})
    progress.settled(cell.name, "finished", None)
    first, second = capsys.readouterr().out.splitlines()
    assert f"0/{n} cells  {cell.name} stage 1/2: step {stage.steps}/{stage.steps}, loss food 2.50" in first
    assert f"1/{n} cells  {cell.name} finished" in second
    assert "left" in second


def test_quiet_tells_only_what_goes_wrong(tree, capsys, clock):
    progress = Progress(tree, set(tree.stages), quiet=True)
    good, bad = tree.cells[:2]
    stage = good.stages[0]
    progress.evaluated(good.name, stage.identity, stage.steps, {"loss/food": 2.5})
    progress.settled(good.name, "finished", None)
    progress.settled(bad.name, "diverged", "not a number at step 3")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"{bad.name} diverged: not a number at step 3")


def test_what_is_kept_tells_the_same_to_others(tree):
    ran, bad = tree.cells[:2]
    first = ran.stages[0]
    missing = {identity for identity in tree.stages if identity != first.identity}
    with Progress(tree, missing, progress_file(tree.grid)) as progress:
        progress.begun(ran.name)
        progress.evaluated(ran.name, ran.stages[1].identity, 5, {"loss/food": 2.5, "loss/automotive": 3.25})
        progress.settled(bad.name, "failed", "its process was lost")
        now = read(tree.grid)
        assert now is not None
        assert now["cells"] == {"finished": 0, "running": 1, "failed": 1, "waiting": len(tree.cells) - 2}
        assert life(now).startswith("running (")
        steps = ran.stages[1].steps
        assert describe(now)[2:] == [
            f"  running  {ran.name} stage 2/2: step 5/{steps}, loss food 2.50 automotive 3.25",
            f"  failed  {bad.name} failed: its process was lost",
        ]
        assert now["tokens_per_second"] * now["seconds"] == pytest.approx(5 * ran.stages[1].tokens_per_step)
    now = read(tree.grid)
    assert now is not None
    assert now["cells"]["running"] == 0
    assert life(now).startswith("ended 0:00 ago")
    assert life(now).endswith("); not all runs may be in MLflow: the same command sends them")
    progress.sent(None)
    assert "MLflow" not in life(read(tree.grid) or {})
    assert "left" not in describe(now)[1]


def test_a_driver_that_is_silent_for_long_is_named(tree):
    with Progress(tree, set(tree.stages), progress_file(tree.grid)):
        now = json.loads(progress_file(tree.grid).read_text())
    silent = now | {"ended": None, "updated": time.time() - 3600}
    assert life(silent).startswith("no sign of life for 1:00:00 (")


def test_many_are_not_listed_one_by_one(tree):
    with Progress(tree, set(tree.stages), progress_file(tree.grid)) as progress:
        bad = {f"cell{i}": {"status": "failed", "reason": "why"} for i in range(SHOWN + 5)}
        lines = describe(progress.snapshot() | {"failed": bad})
    assert lines[-1] == "  failed  and 5 more"
    assert len(lines) == 2 + SHOWN + 1


SHOW = """
import sys, time
from grid.progress import Progress
from grid.spec import load_grid
from grid.tree import Tree
tree = Tree(load_grid("configs/grids/quickstart.yaml", ["storage=" + sys.argv[1]]))
with Progress(tree, set(tree.stages)) as progress:
    cell = tree.cells[0]
    progress.evaluated(cell.name, cell.stages[0].identity, 7, {"loss/food": 2.5})
    progress.settled(tree.cells[1].name, "failed", "because")
    time.sleep(1.5)
"""


def test_on_a_terminal_there_is_one_live_view(tmp_path):
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen([sys.executable, "-c", SHOW, str(tmp_path)], stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # what reading a closed terminal raises
            while more := os.read(ours, 10_000):
                shown += more
    text = shown.decode()
    assert "step 7/293, loss food 2.50" in text
    assert "failed: because" in text
    assert "0 finished, 1 running, 1 failed, 12 waiting" in text
    assert "] 0/14 cells" not in text, "no plain lines between"


def test_what_is_no_progress_of_a_grid_counts_as_none_and_is_named(tree, capsys):
    assert read(tree.grid) is None
    assert capsys.readouterr().err == ""
    path = progress_file(tree.grid)
    path.parent.mkdir(parents=True)
    for content in ("<html>", "[1]", "7", '{"cells": 1}'):
        path.write_text(content)
        assert read(tree.grid) is None
        assert f"{path}: found no progress of a grid; it counts as none" in capsys.readouterr().err
    with Progress(tree, set(tree.stages), path):
        pass
    assert read(tree.grid) is not None
