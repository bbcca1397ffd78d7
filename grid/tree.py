"""The stage tree: all cells' stages with equal ones merged, and what that costs and saves. Starts nothing."""

import gc
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

from grid import costs
from grid.cells import Cell, expand
from grid.spec import Grid, Resources
from lethe.devices import Room, readable
from lethe.interventions import InterventionConfig
from lethe.model.cost import FLOAT32, NO_GROWTH, Growth, Memory, flops_per_token, memory, parameters
from lethe.training.stage import Stage


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Within, nobody looks for any: where all that is made stays, that only takes time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Tree:
    """A grid's cells and its distinct stages, by identity, parents before children."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.stages: dict[str, Stage] = {}
        self.uses: Counter[str] = Counter()
        self._costs: dict[str, tuple[int, int, float]] = {}  # of a shape: weights, FLOPs a token if plain, their share
        with _no_garbage():
            self.cells = expand(grid)
            for cell in self.cells:
                for identity, stage in cell.needed.items():
                    self.stages[identity] = stage
                    self.uses[identity] += 1

    @cached_property
    def model_of(self) -> dict[str, str]:
        """The model's name for each stage."""
        return {identity: cell.model for cell in self.cells for identity in cell.needed}

    @cached_property
    def reads(self) -> dict[tuple[str, int], int]:
        """By corpus and context, the most windows that one sequence reads."""
        most: Counter[tuple[str, int]] = Counter()
        for stage in self.stages.values():
            for corpus, windows in stage.drawn.items():
                point = corpus, stage.model.context
                most[point] = max(most[point], stage.offsets.get(corpus, 0) + windows)
        return dict(most)

    def memory_of(self, model: str, resources: Resources | None = None) -> Memory:
        """What one worker of a model needs in the dearest of its stages; without any, in a plain one.

        With the grid's resources of the model, or others.
        """
        asked = resources or self.grid.resources_of(model)
        shapes = {stage.shape: stage for identity, stage in self.stages.items() if self.model_of[identity] == model}
        needs = (stage_memory(self.grid, model, asked, stage) for stage in shapes.values())
        return max(needs, key=lambda need: need.together, default=_memory(self.grid, model, asked))

    @cached_property
    def carried(self) -> frozenset[str]:
        """The stages whose optimizer state a later stage carries on."""
        return frozenset(s.parent.identity for s in self.stages.values() if s.parent and s.carries)

    def plan(self, keys: Mapping[str, str] | None = None, finished: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The plan as JSON: counts, then the cells and stages themselves.

        `keys` (identity -> stage key) and `finished` (identities that need no training) are known only once the
        corpora exist.
        """
        with _no_garbage():
            stages = [self._stage(identity, keys, finished) for identity in self.stages]
            cells = [_cell(cell) for cell in self.cells]
        return {
            "name": self.grid.name,
            "description": self.grid.description,
            "corpora": list(self.grid.corpora),
            "cells": len(self.cells),
            "stages": len(stages),
            "tokens": sum(stage["tokens"] for stage in stages),
            "tokens_without_sharing": sum(s.trained_tokens for cell in self.cells for s in cell.needed.values()),
            "flops": sum(stage["flops"] for stage in stages),
            "disk": self._disk(stages),
            "models": {name: self._model(name) for name in self.grid.models},
            "costs": costs.table(self.grid),
            "stage_list": stages,
            "cell_list": cells,
            "config": self.grid.model_dump(mode="json", exclude={"storage", "bucket"}),
        }

    def _disk(self, stages: list[dict[str, Any]]) -> dict[str, int]:
        """Bytes: `stages` when all are finished, `missing` of that, `checkpoints` of the largest while it trains.

        AdamW's moments are two numbers a weight; the last two checkpoints are kept, and a third is being written.
        """
        sizes = {stage["id"]: FLOAT32 * stage["parameters"] * (3 if stage["carried"] else 1) for stage in stages}
        missing = sum(sizes[stage["id"]] for stage in stages if not stage.get("reused"))
        largest = max((stage["parameters"] for stage in stages), default=0)
        return {"stages": sum(sizes.values()), "missing": missing, "checkpoints": 3 * 3 * FLOAT32 * largest}

    def _stage(self, identity: str, keys: Mapping[str, str] | None, finished: frozenset[str]) -> dict[str, Any]:
        stage, model = self.stages[identity], self.model_of[identity]
        if stage.shape not in self._costs:
            vocab_size = self.grid.tokenizer.vocab_size
            flops, share = flops_per_token(stage.model, vocab_size), costs.flops_share(stage, vocab_size)
            self._costs[stage.shape] = costs.weights(stage, vocab_size), flops, share
        weights, flops, share = self._costs[stage.shape]
        result = {
            "id": identity,
            "parent": stage.parent.identity if stage.parent else None,
            "name": stage_name(stage),
            "model": model,
            "seed": stage.seed,
            "tokens": stage.trained_tokens,
            "parameters": weights,
            "flops": round(stage.trained_tokens * flops * share),
            "carried": identity in self.carried,
            "cells": self.uses[identity],
        }
        return result if keys is None else result | {"key": keys[identity], "reused": identity in finished}

    def _model(self, name: str) -> dict[str, Any]:
        model, vocab_size, need = self.grid.models[name], self.grid.tokenizer.vocab_size, self.memory_of(name)
        return {
            "parameters": parameters(model, vocab_size),
            "flops_per_token": flops_per_token(model, vocab_size),
            "memory": need._asdict() | {"together": need.together},
            "definition": model.model_dump(mode="json"),
        }


def stage_memory(grid: Grid, model: str, asked: Resources, stage: Stage) -> Memory:
    """What one worker of a stage needs under the grid's batch and precision and the resources asked for, at most.

    Beside its own model there are those that its intervention holds, of the size of the parent's or of those it reads,
    and with monitors the parent's.
    """
    vocab_size, extra = grid.tokenizer.vocab_size, stage.intervention.cost()
    *grown, growth = costs.grown(stage.sequence, vocab_size)
    need = _memory(grid, model, asked, extra.rows, grown, growth)
    if stage.parent is None:
        return need
    parents = costs.weights(stage.parent, vocab_size)
    read = sum(costs.weights(other, vocab_size) for other in stage.reads)
    held = max(extra.weights * parents, read) if extra.weights else 0
    return need._replace(weights=need.weights + round(FLOAT32 * (held + parents * grid.stage.evaluation.monitors)))


def _memory(
    grid: Grid,
    model: str,
    asked: Resources,
    extra_rows: float = 0,
    grown: Sequence[Growth] = (),
    growth: Growth = NO_GROWTH,
) -> Memory:
    each = grid.stage.batch // asked.workers
    return memory(
        grid.models[model],
        grid.tokenizer.vocab_size,
        rows=math.ceil(min(asked.micro_batch or each, each) * (1 + extra_rows)),
        precision=grid.stage.precision,
        held_out=-(-grid.stage.evaluation.sequences // asked.workers),
        gpu=asked.gpus > 0,
        grown=grown,
        growth=growth,
    )


def with_rooms(plan: dict[str, Any], rooms: Mapping[str, Room]) -> dict[str, Any]:
    """The plan with what each model's workers have of memory, and whether what they need fits (null: unknown)."""
    for name, model in plan["models"].items():
        room, need = rooms[name], model["memory"]["together"]
        fits = None if room.bytes is None else need <= room.bytes
        model["memory"] |= {"device": room.device, "sharers": room.sharers, "available": room.bytes, "fits": fits}
    return plan


def stage_name(stage: Stage) -> str:
    """For people: `food`, `automotive 95% + food 5% after food`, or `automotive with ewc (strength 10) after food`."""
    name = _mixed(tuple(stage.mixture.items()))
    if stage.intervention.kind != "none":
        name += f" with {_described(stage.intervention)}"
    return f"{name} after {stage_name(stage.parent)}" if stage.parent else name


@cache
def _mixed(mixture: tuple[tuple[str, float], ...]) -> str:
    parts = sorted(mixture, key=lambda item: -item[1])
    return " + ".join(corpus if len(parts) == 1 else f"{corpus} {100 * share:.3g}%" for corpus, share in parts)


@cache
def _described(intervention: InterventionConfig) -> str:
    chosen = intervention.typed.model_dump(mode="json", exclude_defaults=True).items()
    words = ", ".join(f"{field} {_words(value)}" for field, value in chosen)
    return f"{intervention.kind} ({words})" if chosen else intervention.kind


def _words(value: Any) -> str:
    if isinstance(value, dict):  # an intervention within one
        return " ".join([value["kind"], *(f"{name} {_words(v)}" for name, v in value["parameters"].items())])
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "cell": cell.name,
        "baseline": cell.baseline,
        "model": cell.model,
        "interleaving_ratio": cell.ratio,
        "intervention": cell.intervention,
        "seed": cell.seed,
        "stages": [stage.identity for stage in cell.stages],
        "branches": [stage.identity for stage in cell.branches],
    }


def describe(plan: Mapping[str, Any]) -> str:
    """The plan for people: the tree, its cost, and what sharing saves."""
    saved = 1 - plan["tokens"] / plan["tokens_without_sharing"] if plan["tokens_without_sharing"] else 0
    lines = [f"{plan['name']}: {plan['cells']} cells, {plan['stages']} stages"]
    for name, model in plan["models"].items():
        lines.append(f"  model {name}: {model['parameters']:,} parameters, {model['flops_per_token']:,} FLOPs a token")
        lines.append(f"    memory of a worker: {_describe_memory(model['memory'])}")
    children: dict[str | None, list[Mapping[str, Any]]] = {}
    for stage in plan["stage_list"]:
        children.setdefault(stage["parent"], []).append(stage)

    def walk(parent: str | None, depth: int) -> None:
        for stage in children.get(parent, []):
            name = stage["name"].split(" after ")[0]
            state = f"  {stage['key']}{' reused' if stage['reused'] else ''}" if "key" in stage else ""
            cells = f"{stage['cells']} cell{'s' if stage['cells'] > 1 else ''}"
            about = f"{stage['model']}, seed {stage['seed']}, " if depth == 0 else ""
            lines.append(f"  {'   ' * depth}- {name} ({about}{stage['tokens']:,} tokens, {cells}){state}")
            walk(stage["id"], depth + 1)

    walk(None, 0)
    if reused := sum(stage.get("reused", False) for stage in plan["stage_list"]):
        lines.append(
            f"  reused: {reused} of {plan['stages']} stages, finished in runs/stages under their keys: hashes of "
            "model, data, recipe, seed, intervention and ancestors"
        )
    lines += costs.describe(plan["costs"])
    disk = {name: readable(size) for name, size in plan["disk"].items()}
    lines.append(
        f"  disk: {disk['stages']} of finished stages ({disk['missing']} of it missing), and {disk['checkpoints']} of "
        "checkpoints for each in training, at most"
    )
    lines.append(
        f"  {plan['tokens']:,} tokens and {plan['flops']:.3g} FLOPs; without sharing stages "
        f"{plan['tokens_without_sharing']:,} tokens ({saved:.0%} saved)"
    )
    return "\n".join(lines)


def _describe_memory(need: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{name} {readable(need[name])}" for name in Memory._fields if need[name])
    text = f"{readable(need['together'])} ({parts})"
    if "fits" not in need:
        return text
    if need["fits"] is None:
        return f"{text}; {need['device']}: whether that fits is not known here"
    among = f", one of {need['sharers']} workers at once" if need["sharers"] > 1 else ""
    verdict = "fits" if need["fits"] else "DOES NOT FIT"
    return f"{text}; {verdict} in {readable(need['available'])} ({need['device']}{among})"
