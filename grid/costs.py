"""What each arm of a grid needs of the earlier corpora, and costs: for the plan, and beside the results."""

from collections.abc import Iterable, Mapping
from typing import Any

from grid.cells import Cell
from grid.spec import Grid
from lethe.interventions import InterventionConfig
from lethe.interventions.interface import Cost
from lethe.model.cost import Growth, flops_per_token, held_parameters, parameters, run_flops_per_token
from lethe.progress import aligned
from lethe.training.stage import Stage


def grown(stages: Iterable[Stage], vocab_size: int) -> tuple[Growth, ...]:
    """What the stages of a sequence have added to the model, one after the other."""
    return tuple(stage.intervention.growth(stage.model, vocab_size) for stage in stages)


def weights(stage: Stage, vocab_size: int) -> int:
    """Parameters of the finished stage's model, at most."""
    return held_parameters(stage.model, vocab_size, grown(stage.sequence, vocab_size))


def flops_share(stage: Stage, vocab_size: int) -> float:
    """FLOPs a token of the stage's training over those of a plain stage, of a model in which nothing has grown."""
    *before, growth = grown(stage.sequence, vocab_size)
    share = flops_per_token(stage.model, vocab_size, before, growth) / flops_per_token(stage.model, vocab_size)
    return share * float(stage.intervention.cost().flops)


def run_share(stage: Stage, vocab_size: int) -> float:
    """FLOPs a token of the finished stage's forward pass over those of a plain model's."""
    after = run_flops_per_token(stage.model, vocab_size, grown(stage.sequence, vocab_size))
    return after / run_flops_per_token(stage.model, vocab_size)


def costs(
    grid: Grid, intervention: InterventionConfig | None, ratio: float | None, models: Iterable[str], later: int = 1
) -> dict[str, Any]:
    """The words for an intervention at an interleaving ratio; None where it does not act.

    It acts in `later` stages, one after the other. Of several models, the one that pays most counts.

    `needs`         of the earlier corpora: nothing, statistics, samples, buffer, or text: the corpora themselves
    `extra_weights` copies of the model's weights in memory
    `extra_rows`    beside each row of the batch
    `growth`        of the weights: what the finished model has beside each of a plain one (at most); those that two
                    models of a mixture share count once
    `extra_flops`   beside each FLOP of a plain stage; -1 where nothing is trained
    `run_flops`     beside each FLOP of a plain model's forward pass
    `budget`        what becomes of the later stage's tokens: `same`, or some are put in place of its own (`replaces`),
                    or come on top (`adds`)
    """
    cost = intervention.cost() if intervention else Cost()
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
    growth = intervention.growth(config, vocab_size)
    before, after = [growth] * (later - 1), [growth] * later
    return (
        later * growth.parameters / parameters(config, vocab_size),
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
    if any(grid.interleaving_ratios):
        result["interleaving"] = costs(grid, None, max(grid.interleaving_ratios), models)
    return result


def describe(costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table for people; empty where there is plain training alone."""
    if set(costs) <= {"none", "interleaving"}:
        return []
    lines = [("intervention", "needs of earlier corpora", "weights", "rows", "growth", "FLOPs", "to run", "tokens")]
    for label, cost in costs.items():
        shares = ("extra_weights", "extra_rows", "growth", "extra_flops", "run_flops")
        extra = [f"{cost[name]:+.0%}" if cost[name] else "" for name in shares]
        lines.append((label, cost["needs"], *extra, cost["budget"]))
    return [f"  {line}" for line in aligned(lines)]
