"""The stage tree: all cells' stages with equal ones merged, and what that costs and saves. Starts nothing."""

import math
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from grid import costs
from grid.cells import Cell, expand
from grid.spec import Grid
from lethe.devices import Room, readable
from lethe.interventions import find
from lethe.model.cost import Memory, flops_per_token, memory, parameters, run_flops_per_token
from lethe.training.stage import Stage


class Tree:
    """A grid's cells and its distinct stages, by identity, parents before children."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.cells = expand(grid)
        self.stages: dict[str, Stage] = {}
        self.uses: Counter[str] = Counter()
        for cell in self.cells:
            needed = needed_stages(cell)
            self.stages |= needed
            self.uses.update(list(needed))

    @cached_property
    def model_of(self) -> dict[str, str]:
        """The model's name for each stage."""
        return {identity: cell.model for cell in self.cells for identity in needed_stages(cell)}

    @cached_property
    def reads(self) -> dict[tuple[str, int], int]:
        """By corpus and context, the most windows that one sequence reads."""
        most: Counter[tuple[str, int]] = Counter()
        for stage in self.stages.values():
            for corpus, windows in stage.drawn.items():
                point = corpus, stage.model.context
                most[point] = max(most[point], stage.offsets.get(corpus, 0) + windows)
        return dict(most)

    @cached_property
    def carried(self) -> frozenset[str]:
        """The stages whose optimizer state a later stage carries on."""
        return frozenset(s.parent.identity for s in self.stages.values() if s.parent and s.carries)

    def plan(self, keys: Mapping[str, str] | None = None, finished: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The plan as JSON: counts, then the cells and stages themselves.

        `keys` (identity -> stage key) and `finished` (identities that need no training) are known only once the
        corpora exist.
        """
        stages = [self._stage(identity, keys, finished) for identity in self.stages]
        return {
            "name": self.grid.name,
            "description": self.grid.description,
            "corpora": list(self.grid.corpora),
            "cells": len(self.cells),
            "stages": len(stages),
            "tokens": sum(stage["tokens"] for stage in stages),
            "tokens_without_sharing": sum(_tokens(s) for cell in self.cells for s in needed_stages(cell).values()),
            "flops": sum(stage["flops"] for stage in stages),
            "models": {name: self._model(name) for name in self.grid.models},
            "costs": costs.table(self.grid),
            "stage_list": stages,
            "cell_list": [_cell(cell) for cell in self.cells],
            "config": self.grid.model_dump(mode="json", exclude={"storage"}),
        }

    def _stage(self, identity: str, keys: Mapping[str, str] | None, finished: frozenset[str]) -> dict[str, Any]:
        stage, model, vocab_size = self.stages[identity], self.model_of[identity], self.grid.tokenizer.vocab_size
        plain = _tokens(stage) * flops_per_token(stage.model, vocab_size)
        grown = costs.grown(stage.sequence, vocab_size)
        result = {
            "id": identity,
            "parent": stage.parent.identity if stage.parent else None,
            "name": stage_name(stage),
            "model": model,
            "seed": stage.seed,
            "tokens": _tokens(stage),
            "parameters": parameters(stage.model, vocab_size) + grown,
            "flops": round(plain * costs.flops_share(stage, vocab_size)),
            "run_flops_per_token": run_flops_per_token(stage.model, vocab_size, grown),
            "cells": self.uses[identity],
        }
        return result if keys is None else result | {"key": keys[identity], "reused": identity in finished}

    def _model(self, name: str) -> dict[str, Any]:
        model, vocab_size, need = self.grid.models[name], self.grid.tokenizer.vocab_size, memory_of(self.grid, name)
        return {
            "parameters": parameters(model, vocab_size),
            "flops_per_token": flops_per_token(model, vocab_size),
            "memory": need._asdict() | {"together": need.together},
            "definition": model.model_dump(mode="json"),
        }


def memory_of(grid: Grid, model: str) -> Memory:
    """What one worker of a model needs under the grid's batch, precision, resources and dearest intervention.

    Monitors keep the parent's model beside the one that trains. What grows may train with the rest in a later stage.
    """
    asked, stage, extra = grid.resources_of(model), grid.stage, costs.dearest(grid)
    each = stage.batch // asked.workers
    need = memory(
        grid.models[model],
        grid.tokenizer.vocab_size,
        rows=math.ceil(min(asked.micro_batch or each, each) * (1 + extra.rows)),
        precision=stage.precision,
        held_out=-(-stage.evaluation.sequences // asked.workers),
        gpu=asked.gpus > 0,
    )
    size = 1 + costs.largest_growth(grid, model)
    return need._replace(
        weights=round(need.weights * (size * (1 + stage.evaluation.monitors) + extra.weights)),
        gradients=round(need.gradients * size),
        optimizer=round(need.optimizer * size),
    )


def with_rooms(plan: dict[str, Any], rooms: Mapping[str, Room]) -> dict[str, Any]:
    """The plan with what each model's workers have of memory, and whether what they need fits (null: unknown)."""
    for name, model in plan["models"].items():
        room, need = rooms[name], model["memory"]["together"]
        fits = None if room.bytes is None else need <= room.bytes
        model["memory"] |= {"device": room.device, "sharers": room.sharers, "available": room.bytes, "fits": fits}
    return plan


def needed_stages(cell: Cell) -> dict[str, Stage]:
    """Every stage that must be finished for the cell, by identity, in an order in which they can be trained."""
    needed: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        for other in (*((stage.parent,) if stage.parent else ()), *stage.reads):
            visit(other)
        needed.setdefault(stage.identity, stage)

    for last in (cell.stages[-1], *cell.branches):
        visit(last)
    return needed


def stage_name(stage: Stage) -> str:
    """For people: `food`, `automotive 95% + food 5% after food`, or `automotive with ewc (strength 10) after food`."""
    parts = sorted(stage.mixture.items(), key=lambda item: -item[1])
    shares = [corpus if len(parts) == 1 else f"{corpus} {100 * share:.3g}%" for corpus, share in parts]
    name = " + ".join(shares)
    if stage.intervention.kind != "none":
        name += f" with {stage.intervention.kind}"
        parameters = find(stage.intervention.kind).Parameters.model_validate(stage.intervention.parameters)
        chosen = parameters.model_dump(mode="json", exclude_defaults=True).items()
        name += f" ({', '.join(f'{field} {_words(value)}' for field, value in chosen)})" if chosen else ""
    return f"{name} after {stage_name(stage.parent)}" if stage.parent else name


def _words(value: Any) -> str:
    if isinstance(value, dict):  # an intervention within one
        return " ".join([value["kind"], *(f"{name} {_words(v)}" for name, v in value["parameters"].items())])
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tokens(stage: Stage) -> int:
    return stage.steps * stage.tokens_per_step


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
    lines += costs.describe(plan["costs"])
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
