"""From the trained stages of the self-check to what its checks are functions of: histories, and compared weights."""

from typing import TYPE_CHECKING

from grid.results import measured
from grid.self_check import Same
from grid.self_check_assertions import AB, MIXED, MORE, Seed
from grid.self_check_stages import Trained
from lethe.evaluation.history import History, StageCurve
from lethe.training.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from grid.cells import Cell


def seeds(trained: Trained) -> list[Seed]:
    """What was measured, at each seed of the grid."""
    return [_seed(trained, trained.arms.at(seed)) for seed in trained.arms.grid.seeds]


def _seed(trained: Trained, cells: "dict[str, Cell]") -> Seed:
    firsts = {cell.stages[0].identity: cell.stages[0] for arm, cell in cells.items() if arm != MIXED}
    roots = [_measured(trained, stage) for stage in firsts.values()]
    arms = {
        arm: History(
            [_measured(trained, stage) for stage in cell.stages],
            roots,
            {corpus: _measured(trained, stage) for stage in cell.branches for corpus in stage.mixture},
        )
        for arm, cell in cells.items()
    }
    return Seed(trained.arms.a, trained.arms.b, arms)


def _measured(trained: Trained, stage: Stage) -> StageCurve:
    job = trained.setup.job(stage)
    table = job.store.curve(job.key, job.measured)
    assert table is not None, f"{job.key} is finished but has no curve"
    return measured(stage, table)


def same(trained: Trained) -> dict[str, Same]:
    """What is compared bit for bit, by the names of `self_check_assertions.EXACT`."""
    cells, job = trained.arms.exact, trained.setup.job

    def end(arm: str, stage: int = -1) -> "dict[str, Tensor]":
        of = job(cells[arm].stages[stage])
        return of.store.weights(of.key)

    first, last = (trained.again.weights(job(stage).key) for stage in cells[AB].stages)
    return {
        "12a ewc off": compared(end(f"{AB} ewc_off"), end(AB)),
        "12b ewc full": compared(end(f"{AB} ewc_full"), end(AB, 0)),
        "12c l2_sp full": compared(end(f"{AB} l2_full"), end(AB, 0)),
        "12d all frozen": compared(end(f"{AB} frozen"), end(AB, 0)),
        "13a r = 1": compared(end(f"{AB} 1"), end(MORE)),
        "14 repeatable": compared(_both(first, last), _both(end(AB, 0), end(AB))),
    }


def _both(first: "dict[str, Tensor]", last: "dict[str, Tensor]") -> "dict[str, Tensor]":
    return {f"first/{name}": tensor for name, tensor in first.items()} | last


def compared(one: "dict[str, Tensor]", other: "dict[str, Tensor]") -> Same:
    """Compare tensors of equal names and shapes, bit for bit."""
    import torch

    equal, largest = True, 0.0
    for name, tensor in one.items():
        equal &= torch.equal(tensor.view(torch.int32), other[name].view(torch.int32))
        largest = max(largest, float((tensor.double() - other[name].double()).abs().max()))
    return Same(len(one), equal, largest)
