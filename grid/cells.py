"""From a grid to its cells: every point of the axes, each a sequence of stages.

The three baselines and interleaving are all just mixtures: what a ratio means is decided here, and the trainer knows
neither name.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

from grid.spec import Axes, Grid, Part
from lethe.interventions import PLAIN, InterventionConfig
from lethe.training.stage import Stage


@dataclass(frozen=True)
class Cell:
    """One point of the grid; ratio and intervention are None where they do not act.

    `branches` are stages that follow the last one and are no part of the sequence: each trains on an earlier corpus
    alone, to see how fast it is learned again.
    """

    name: str
    baseline: str
    model: str
    ratio: float | None
    intervention: str | None
    seed: int
    stages: tuple[Stage, ...]
    branches: tuple[Stage, ...] = ()

    @cached_property
    def needed(self) -> dict[str, Stage]:
        """Every stage that must be finished for the cell, by identity, in an order in which they can be trained."""
        needed: dict[str, Stage] = {}
        for last in (self.stages[-1], *self.branches):
            _add(needed, last)
        return needed


def _add(needed: dict[str, Stage], stage: Stage) -> None:
    """Add a stage behind all that it needs."""
    if stage.parent:
        _add(needed, stage.parent)
    for other in stage.reads:
        _add(needed, other)
    needed.setdefault(stage.identity, stage)


def expand(grid: Grid) -> list[Cell]:
    """All cells, without doubles, in the order of the YAML."""
    course = cache(lambda baseline, model, ratio: _course(grid, baseline, model, ratio))
    first = cache(lambda baseline, model, seed: _stage(grid, model, seed, *course(baseline, model, 0.0)[0]))

    @cache
    def build(baseline: str, model: str, ratio: float, label: str, seed: int) -> tuple[Stage, ...]:
        stages = [first(baseline, model, seed)]
        for mixture, tokens in course(baseline, model, ratio)[1:]:
            stage = _stage(grid, model, seed, mixture, tokens, grid.interventions[label], stages[-1])
            stages.append(stage.with_reads())
        return tuple(stages)

    cells: dict[str, Cell] = {}
    for axes in grid.grids or (Axes(),):
        for baseline, model, ratio, label, seed in product(
            axes.baselines or grid.baselines,
            axes.models or grid.models,
            axes.interleaving_ratios or grid.interleaving_ratios,
            axes.interventions or grid.interventions,
            axes.seeds or grid.seeds,
        ):
            stages = build(baseline, model, ratio, label, seed)
            other = build(baseline, model, 0.0 if ratio else 0.5, label, seed)
            acts = stages[-1].identity != other[-1].identity
            acting = (ratio if acts else None), (label if len(stages) > 1 else None)
            name = _name(baseline, model, *acting, seed)
            cells.setdefault(name, Cell(name, baseline, model, *acting, seed, stages, _branches(grid, stages)))
    return list(cells.values())


def _name(baseline: str, model: str, ratio: float | None, label: str | None, seed: int) -> str:
    parts = [baseline, model, None if ratio is None else f"r{ratio:g}", label, f"s{seed}"]
    return "-".join(part for part in parts if part)


def _course(grid: Grid, baseline: str, model: str, ratio: float) -> list[tuple[dict[str, float], int]]:
    """The mixture and the tokens of each stage of a baseline; neither a seed nor an intervention changes them."""
    course: list[tuple[dict[str, float], int]] = []
    seen: Counter[str] = Counter()
    for part in grid.baselines[baseline]:
        acting = ratio if course else 0.0
        course.append((_interleave(part, acting, seen), _tokens(grid, part, acting)))
        seen.update(_stage(grid, model, 0, *course[-1]).drawn)
    return course


def _stage(
    grid: Grid,
    model: str,
    seed: int,
    mixture: dict[str, float],
    tokens: int,
    intervention: InterventionConfig = PLAIN,
    parent: Stage | None = None,
) -> Stage:
    return Stage(
        model=grid.models[model],
        mixture=mixture,
        tokens=tokens,
        recipe=grid.stage.recipe,
        seed=seed,
        intervention=intervention,
        parent=parent,
    )


def _branches(grid: Grid, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """A plain stage on each corpus that an earlier stage, but not the last, has most of."""
    tokens, (*earlier, last) = grid.stage.relearning_tokens, stages
    if not tokens:
        return ()
    corpora = dict.fromkeys(corpus for stage in earlier for corpus in _mains(stage) if corpus not in _mains(last))
    of_last = {"model": last.model, "recipe": grid.stage.recipe, "seed": last.seed, "parent": last}
    return tuple(Stage(mixture={corpus: 1.0}, tokens=tokens, **of_last) for corpus in corpora)


def _mains(stage: Stage) -> list[str]:
    return [corpus for corpus, weight in stage.mixture.items() if weight == max(stage.mixture.values())]


def _interleave(part: Part, ratio: float, seen: Counter[str]) -> dict[str, float]:
    """The part's own mixture, with `ratio` of it given to what was seen before, in proportion to the tokens seen."""
    own, before = sum(part.mixture.values()), sum(seen.values())
    mixture = Counter({corpus: (1 - ratio) * weight / own for corpus, weight in part.mixture.items()})
    if ratio:
        mixture.update({corpus: ratio * windows / before for corpus, windows in seen.items()})
    return dict(mixture)


def _tokens(grid: Grid, part: Part, ratio: float) -> int:
    budget = part.tokens or grid.stage.tokens * len(part.mixture)
    return round(budget / (1 - ratio)) if grid.stage.interleaving == "add" else budget
