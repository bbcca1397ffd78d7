"""What each arm of a grid needs of the earlier corpora, and costs: for the plan, and beside the results."""

from collections.abc import Mapping
from typing import Any

from grid.cells import Cell
from grid.spec import Grid
from lethe.interventions import InterventionConfig, find
from lethe.interventions.interface import Cost

NEEDS = ("nothing", "statistics", "samples", "buffer", "text")
"""From the least to the most; `text` is what interleaving reads: the corpora themselves."""


def cost_of(intervention: InterventionConfig) -> Cost:
    kind = find(intervention.kind)
    return kind.cost(kind.Parameters.model_validate(intervention.parameters))


def dearest(grid: Grid) -> Cost:
    """The most that any of the grid's interventions takes: of memory, and of rows a step."""
    costs = [cost_of(intervention) for intervention in grid.interventions.values()]
    return Cost(weights=max(cost.weights for cost in costs), rows=max(cost.rows for cost in costs))


def costs(grid: Grid, intervention: InterventionConfig | None, ratio: float | None) -> dict[str, Any]:
    """The words for an intervention at an interleaving ratio; None where it does not act.

    `needs`         of the earlier corpora (NEEDS)
    `extra_weights` copies of the model's weights in memory
    `extra_rows`    beside each row of the batch
    `extra_flops`   beside each FLOP of a plain stage; -1 where nothing is trained
    `budget`        what becomes of the later stage's tokens: `same`, or some are put in place of its own (`replaces`),
                    or come on top (`adds`)
    """
    cost = cost_of(intervention) if intervention else Cost()
    interleaving = {"replace": "replaces", "add": "adds"}[grid.stage.interleaving]
    return {
        "needs": "text" if ratio else cost.needs,
        "extra_weights": float(cost.weights),
        "extra_rows": float(cost.rows),
        "extra_flops": float(cost.flops) - 1,
        "budget": interleaving if ratio else "adds" if cost.rows else "same",
    }


def cell_costs(grid: Grid, cell: Cell) -> dict[str, Any]:
    """`costs` of a cell; all null where it is one stage, which has nothing to forget."""
    intervention = cell.stages[-1].intervention if cell.intervention else None
    known = costs(grid, intervention, cell.ratio)
    return known if len(cell.stages) > 1 else dict.fromkeys(known)


def table(grid: Grid) -> dict[str, dict[str, Any]]:
    """`costs` of every intervention by its label, and of `interleaving` if the grid has a ratio above 0."""
    result = {label: costs(grid, intervention, None) for label, intervention in grid.interventions.items()}
    return result | (
        {"interleaving": costs(grid, None, max(grid.interleaving_ratios))} if any(grid.interleaving_ratios) else {}
    )


def describe(costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table for people; empty where there is plain training alone."""
    if set(costs) <= {"none", "interleaving"}:
        return []
    lines = [("intervention", "needs of earlier corpora", "weights", "rows", "FLOPs", "tokens")]
    for label, cost in costs.items():
        extra = [f"{cost[name]:+.0%}" if cost[name] else "" for name in ("extra_weights", "extra_rows", "extra_flops")]
        lines.append((label, cost["needs"], *extra, cost["budget"]))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  " + "  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in lines]
