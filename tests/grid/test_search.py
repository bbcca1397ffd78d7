"""The queue of cells: who goes first, who is held back, and whom a failure takes along."""

import pytest

from grid.cells import Cell
from grid.progress import Progress
from grid.search import Outcome, Queue, order
from grid.spec import load_grid
from grid.tree import Tree, needed_stages


@pytest.fixture
def tree() -> Tree:
    return Tree(load_grid("configs/grids/quickstart.yaml"))


def queue_of(tree: Tree, finished: tuple[str, ...] = ()) -> Queue:
    return Queue(order(tree, tree.cells), set(tree.stages) - set(finished))


def begin(queue: Queue, trial: str) -> Cell:
    cell = queue.next()
    assert cell is not None
    queue.running[trial] = cell
    return cell


def test_the_first_cells_share_no_stage_and_the_longest_go_first(tree):
    first = order(tree, tree.cells)[:6]
    assert len({cell.stages[0].identity for cell in first}) == 6
    lengths = [sum(stage.steps for stage in cell.stages) for cell in first]
    assert lengths == sorted(lengths, reverse=True)


def test_a_cell_is_held_back_only_while_another_trains_a_stage_it_needs(tree):
    queue = queue_of(tree)
    roots = [begin(queue, str(i)).stages[0].identity for i in range(6)]
    assert len(set(roots)) == 6
    assert queue.next() is None, "every other cell needs a stage that is being trained"
    done = queue.running.pop("0")
    queue.done(done, Outcome("finished"), None)
    sibling = begin(queue, "6")
    assert sibling.stages[0].identity == done.stages[0].identity
    assert queue.lacks(sibling) == {sibling.stages[1].identity}
    assert begin(queue, "7").stages[0].identity == done.stages[0].identity, "two children of a finished root may run"
    assert queue.next() is None


def test_every_stage_is_trained_by_one_cell_whatever_the_order_of_endings(tree):
    queue, trained = queue_of(tree), []
    trial = 0
    while queue.waiting or queue.running:
        while (cell := queue.next()) is not None:
            trained += sorted(queue.lacks(cell))
            queue.running[str(trial := trial + 1)] = cell
        last = max(queue.running, key=int)
        queue.done(queue.running.pop(last), Outcome("finished"), None)
    assert len(trained) == len(set(trained)) == 18
    assert len(queue.outcomes) == 14
    assert not queue.missing


def test_a_stage_that_cannot_be_trained_takes_only_its_cells_along(tree):
    queue = queue_of(tree)
    cell = begin(queue, "0")
    root = cell.stages[0].identity
    queue.running.pop("0")
    settled = queue.done(cell, Outcome("diverged", "why"), root)
    assert set(settled) == {other.name for other in tree.cells if root in needed_stages(other)}
    assert len(settled) == 3
    assert {outcome.reason for outcome in settled.values()} == {"why"}
    assert len(queue.waiting) == 11


def test_a_lost_process_takes_no_other_cell_along(tree):
    queue = queue_of(tree)
    cell = begin(queue, "0")
    queue.running.pop("0")
    assert queue.done(cell, Outcome("failed", "killed"), None) == {cell.name: Outcome("failed", "killed")}
    begun = [begin(queue, str(trial)) for trial in range(1, 7)]
    assert [other for other in begun if cell.stages[0].identity in queue.lacks(other)], "nobody trains its root again"


def test_progress_counts_what_is_left(tree, capsys, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("grid.progress.time.monotonic", lambda: float(next(clock)))
    cells = tree.cells[:2]
    missing = {identity for cell in cells for identity in needed_stages(cell)}
    progress = Progress(tree, cells, missing)
    stage = cells[0].stages[0]
    progress.evaluated(cells[0].name, {"stage": stage.identity, "step": stage.steps, "values": {"loss/food": 2.5}})
    progress.settled(cells[0].name, "finished", None)
    first, second = capsys.readouterr().out.splitlines()
    assert f"0/2 cells  {cells[0].name} stage 1: step {stage.steps}/{stage.steps}, food 2.50" in first
    assert f"1/2 cells  {cells[0].name} finished" in second
    assert "left" in second
