"""The queue of cells: who goes first, who is held back, and whom a failure takes along."""

import pytest

from grid.cells import Cell
from grid.queue import RETRIES, Outcome, Queue
from grid.spec import load_grid
from grid.tree import Tree


@pytest.fixture
def tree() -> Tree:
    return Tree(load_grid("configs/grids/quickstart.yaml"))


def queue_of(tree: Tree, finished: tuple[str, ...] = ()) -> Queue:
    return Queue(tree.cells, set(tree.stages) - set(finished), RETRIES)


def begin(queue: Queue, trial: str) -> Cell:
    cell = queue.next()
    assert cell is not None
    queue.begin(trial, cell)
    return cell


def test_the_first_cells_share_no_stage_and_the_longest_go_first(tree):
    queue = queue_of(tree)
    first = [begin(queue, str(i)) for i in range(6)]
    assert len({cell.stages[0].identity for cell in first}) == 6
    lengths = [sum(stage.steps for stage in cell.stages) for cell in first]
    assert lengths == sorted(lengths, reverse=True)


def test_a_cell_is_held_back_only_while_another_trains_a_stage_it_needs(tree):
    queue = queue_of(tree)
    roots = [begin(queue, str(i)).stages[0].identity for i in range(6)]
    assert len(set(roots)) == 6
    assert queue.next() is None, "every other cell needs a stage that is being trained"
    done = queue.running["0"]
    queue.done("0", Outcome("finished"), None)
    sibling = begin(queue, "6")
    assert sibling.stages[0].identity == done.stages[0].identity
    assert queue.lacks(sibling) == {sibling.stages[1].identity: sibling.stages[1].steps}
    assert begin(queue, "7").stages[0].identity == done.stages[0].identity, "two children of a finished root may run"
    assert queue.next() is None


def test_every_stage_is_trained_by_one_cell_whatever_the_order_of_endings(tree):
    queue, trained = queue_of(tree), []
    trial = 0
    while queue.waiting or queue.running:
        while (cell := queue.next()) is not None:
            trained += sorted(queue.lacks(cell))
            queue.begin(str(trial := trial + 1), cell)
        queue.done(max(queue.running, key=int), Outcome("finished"), None)
    assert len(trained) == len(set(trained)) == 18
    assert not queue.missing


def test_a_stage_that_cannot_be_trained_takes_only_its_cells_along(tree):
    queue = queue_of(tree)
    cell = begin(queue, "0")
    root = cell.stages[0].identity
    settled = queue.done("0", Outcome("diverged", "why"), root)
    assert set(settled) == {other.name for other in tree.cells if root in other.needed}
    assert len(settled) == 3
    assert {outcome.reason for outcome in settled.values()} == {"why"}
    assert len(queue.waiting) == 11


def test_a_lost_process_takes_no_other_cell_along(tree):
    queue = queue_of(tree)
    cell = begin(queue, "0")
    assert queue.done("0", Outcome("failed", "killed"), None) == {cell.name: Outcome("failed", "killed")}
    begun = [begin(queue, str(trial)) for trial in range(1, 7)]
    assert [other for other in begun if cell.stages[0].identity in queue.lacks(other)], "nobody trains its root again"


def test_who_waits_for_a_stage_starts_when_it_is_trained_not_when_its_cell_ends(tree):
    queue = queue_of(tree)
    roots = {begin(queue, str(i)).stages[0].identity for i in range(6)}
    assert queue.next() is None
    root = queue.running["0"].stages[0].identity
    queue.trained(root)
    assert root in roots
    assert begin(queue, "6").stages[0].identity == root
    assert queue.running["0"].stages[0].identity == root, "the cell that trained it goes on"


def test_the_cell_with_most_steps_ahead_starts_first(tree):
    finished = tuple(stage.identity for cell in tree.cells for stage in cell.stages[:1] if len(cell.stages) > 1)
    queue = queue_of(tree, finished)
    ahead = [sum(queue.lacks(begin(queue, str(i))).values()) for i in range(len(tree.cells))]
    assert ahead == sorted(ahead, reverse=True)
    assert len(set(ahead)) > 1


def test_what_is_lost_waits_again_but_not_for_ever(tree):
    queue = queue_of(tree)
    cell = begin(queue, "0")
    for trial in range(2):
        assert queue.lost(str(trial), "killed") == {}
        queue.waiting.remove(cell)
        queue.begin(str(trial + 1), cell)
    assert queue.lost("2", "killed") == {cell.name: Outcome("failed", "killed")}
    assert cell not in queue.waiting
    assert not queue.running


def test_what_got_further_each_time_is_tried_again(tree):
    queue = queue_of(tree)
    cell = begin(queue, "0")
    first, second = (stage.identity for stage in cell.stages)
    for trial, (stage, step) in enumerate([(first, 0), (first, 100), (first, 100), (second, 0), (second, 0)]):
        queue.reached(str(trial), stage, step)
        assert queue.lost(str(trial), "killed") == {}
        queue.waiting.remove(cell)
        queue.begin(str(trial + 1), cell)
    queue.reached("5", second, 0)
    assert queue.lost("5", "killed") == {cell.name: Outcome("failed", "killed")}
