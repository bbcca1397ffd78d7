"""From a grid to its cells: every point of the axes, each a sequence of stages.

The three baselines and interleaving are all just mixtures: what a ratio means is decided here, and the trainer knows
neither name.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product

from grid.spec import Axes, Grid, Part
from lethe.interventions import InterventionConfig
from lethe.training.stage import Stage

PLAIN = InterventionConfig(kind="none")


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


def expand(grid: Grid) -> list[Cell]:
    """All cells, without doubles, in the order of the YAML."""
    build = cache(lambda *point: _sequence(grid, *point))
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


def _sequence(grid: Grid, baseline: str, model: str, ratio: float, label: str, seed: int) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    seen: Counter[str] = Counter()
    for part in grid.baselines[baseline]:
        share = ratio if stages else 0.0
        stage = Stage(
            model=grid.models[model],
            mixture=_interleave(part, share, seen),
            tokens=_tokens(grid, part, share),
            recipe=grid.stage.recipe,
            seed=seed,
            intervention=grid.interventions[label] if stages else PLAIN,
            parent=stages[-1] if stages else None,
        )
        stages.append(stage.with_reads())
        for corpus, windows in stage.drawn.items():
            seen[corpus] += windows
    return tuple(stages)


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
