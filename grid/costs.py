"""What each arm of a grid needs of the earlier corpora, and costs: for the plan, and beside the results."""

from collections.abc import Iterable, Mapping
from typing import Any

from grid.cells import Cell
from grid.spec import Grid
from lethe.interventions import InterventionConfig, find
from lethe.interventions.interface import Cost
from lethe.model.config import ModelConfig
from lethe.model.cost import Growth, flops_per_token, parameters, run_flops_per_token
from lethe.training.stage import Stage

NEEDS = ("nothing", "statistics", "samples", "buffer", "text")
"""From the least to the most; `text` is what interleaving reads: the corpora themselves."""


def cost_of(intervention: InterventionConfig) -> Cost:
    kind = find(intervention.kind)
    return kind.cost(kind.Parameters.model_validate(intervention.parameters))


def growth_of(intervention: InterventionConfig, model: ModelConfig, vocab_size: int) -> Growth:
    kind = find(intervention.kind)
    return kind.growth(kind.Parameters.model_validate(intervention.parameters), model, vocab_size)


def grown(stages: Iterable[Stage], vocab_size: int) -> int:
    """Weights that the stages of a sequence have added to the model."""
    return sum(growth_of(stage.intervention, stage.model, vocab_size).weights for stage in stages)


def flops_share(stage: Stage, vocab_size: int) -> float:
    """FLOPs a token of the stage's training over those of a plain stage, of a model in which nothing has grown."""
    growth, before = growth_of(stage.intervention, stage.model, vocab_size), grown(stage.sequence[:-1], vocab_size)
    share = flops_per_token(stage.model, vocab_size, before, growth) / flops_per_token(stage.model, vocab_size)
    return share * float(cost_of(stage.intervention).flops)


def dearest(grid: Grid) -> Cost:
    """The most that any of the grid's interventions takes: of memory, and of rows a step."""
    costs = [cost_of(intervention) for intervention in grid.interventions.values()]
    return Cost(weights=max(cost.weights for cost in costs), rows=max(cost.rows for cost in costs))


def largest_growth(grid: Grid, model: str) -> float:
    """The most that a sequence of the grid adds to a model, as a share of its weights."""
    config, vocab_size = grid.models[model], grid.tokenizer.vocab_size
    later = max(len(parts) for parts in grid.baselines.values()) - 1
    most = max(growth_of(each, config, vocab_size).weights for each in grid.interventions.values())
    return later * most / parameters(config, vocab_size)


def costs(
    grid: Grid, intervention: InterventionConfig | None, ratio: float | None, models: Iterable[str], later: int = 1
) -> dict[str, Any]:
    """The words for an intervention at an interleaving ratio; None where it does not act.

    It acts in `later` stages, one after the other. Of several models, the one that pays most counts.

    `needs`         of the earlier corpora (NEEDS)
    `extra_weights` copies of the model's weights in memory
    `extra_rows`    beside each row of the batch
    `growth`        of the weights: what the finished model has beside each of a plain one (at most)
    `extra_flops`   beside each FLOP of a plain stage; -1 where nothing is trained
    `run_flops`     beside each FLOP of a plain model's forward pass
    `budget`        what becomes of the later stage's tokens: `same`, or some are put in place of its own (`replaces`),
                    or come on top (`adds`)
    """
    cost = cost_of(intervention) if intervention else Cost()
    shares = [_shares(grid, intervention, name, later) for name in models] if intervention else [(0.0, 1.0, 1.0)]
    growth, training, running = (max(each) for each in zip(*shares, strict=True))
    interleaving = {"replace": "replaces", "add": "adds"}[grid.stage.interleaving]
    return {
        "needs": "text" if ratio else cost.needs,
        "extra_weights": float(cost.weights),
        "extra_rows": float(cost.rows),
        "growth": growth,
        "extra_flops": float(cost.flops) * training - 1,
        "run_flops": running - 1,
        "budget": interleaving if ratio else "adds" if cost.rows else "same",
    }


def _shares(grid: Grid, intervention: InterventionConfig, model: str, later: int) -> tuple[float, float, float]:
    """Over those of a plain model: weights that have grown, FLOPs of the last stage's training and of a forward."""
    config, vocab_size = grid.models[model], grid.tokenizer.vocab_size
    growth = growth_of(intervention, config, vocab_size)
    before, after = (later - 1) * growth.weights, later * growth.weights
    return (
        after / parameters(config, vocab_size),
        flops_per_token(config, vocab_size, before, growth) / flops_per_token(config, vocab_size),
        run_flops_per_token(config, vocab_size, after) / run_flops_per_token(config, vocab_size),
    )


def cell_costs(grid: Grid, cell: Cell) -> dict[str, Any]:
    """`costs` of a cell; all null where it is one stage, which has nothing to forget."""
    intervention = cell.stages[-1].intervention if cell.intervention else None
    known = costs(grid, intervention, cell.ratio, [cell.model], len(cell.stages) - 1)
    return known if len(cell.stages) > 1 else dict.fromkeys(known)


def table(grid: Grid) -> dict[str, dict[str, Any]]:
    """`costs` of every intervention by its label, and of `interleaving` if the grid has a ratio above 0."""
    models = list(grid.models)
    result = {label: costs(grid, intervention, None, models) for label, intervention in grid.interventions.items()}
    return result | (
        {"interleaving": costs(grid, None, max(grid.interleaving_ratios), models)}
        if any(grid.interleaving_ratios)
        else {}
    )


def describe(costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table for people; empty where there is plain training alone."""
    if set(costs) <= {"none", "interleaving"}:
        return []
    lines = [("intervention", "needs of earlier corpora", "weights", "rows", "growth", "FLOPs", "to run", "tokens")]
    for label, cost in costs.items():
        shares = ("extra_weights", "extra_rows", "growth", "extra_flops", "run_flops")
        extra = [f"{cost[name]:+.0%}" if cost[name] else "" for name in shares]
        lines.append((label, cost["needs"], *extra, cost["budget"]))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["  " + "  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in lines]
