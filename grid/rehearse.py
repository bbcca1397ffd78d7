"""The small run before the big one: every model for a few real steps, and what that says of the whole grid.

Each model trains one short stage on the first corpus with the grid's recipe, data, workers and devices, as many copies
at once as share a device in the grid, so that speed and memory are those of the grid. The stages lie in
`runs/NAME/rehearsal/`, apart from the store; what was measured is written to `runs/NAME/rehearsal.json`.
"""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from grid import costs
from grid.cluster import ensure_ray
from grid.driver import check_budgets, check_resources, keys_of, make_setup, taken
from grid.spec import Grid, Part
from grid.tree import Tree
from lethe.devices import readable, room
from lethe.evaluation.losses import unigram_entropy
from lethe.files import write_json
from lethe.interventions import PLAIN
from lethe.model.cost import parameters
from lethe.progress import aligned
from lethe.tokens.shards import TokenData
from lethe.training.stage import Stage
from lethe.training.store import StageStore

STEPS = 200
WANTED = 0.5  # of the way from ln V to the unigram entropy


def rehearse(grid: Grid, data: TokenData, price: float | None) -> dict[str, Any]:
    """Rehearse every model; returns what is written to `rehearsal.json`. A failing model is a verdict, no exception.

    `price` is money for an hour of one device (see `estimate`). Raises UserError for a grid that could not run.
    """
    tree = Tree(grid)
    check_budgets(tree, data)
    grid.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(grid.folder / "lock", timeout=0):
            ensure_ray()
            check_resources(grid)
            shutil.rmtree(grid.folder / "rehearsal", ignore_errors=True)
            corpus = next(iter(grid.corpora))
            entropy = unigram_entropy(data.split(corpus, "train"), data.vocab_size)
            models = {name: _rehearse(grid, name, data, entropy) for name in grid.models}
    except Timeout:
        raise taken(grid) from None
    keys, store = keys_of(tree, data), StageStore(grid.storage / "runs" / "stages")
    missing = [identity for identity in tree.stages if store.record(keys[identity]) is None]
    result = {"name": grid.name, "corpus": corpus, "models": models, **estimate(tree, missing, models, price)}
    write_json(grid.folder / "rehearsal.json", result)
    return result


def _rehearse(grid: Grid, name: str, data: TokenData, entropy: float) -> dict[str, Any]:
    """Train one model's short stage, its copies beside it; returns what was measured and the verdict."""
    from grid.search import slots

    asked = grid.resources_of(name)
    there = room(asked.cpus, asked.gpus)
    tree = Tree(short_grid(grid, name, max(1, there.sharers // asked.workers)))
    first, folder = tree.cells[0].stages[0], grid.folder / "rehearsal"
    setup = replace(make_setup(tree, data), runs=folder, checkpoint_every=STEPS, scratch=folder / "ray")
    result: dict[str, Any] = {
        "parameters": parameters(first.model, data.vocab_size),
        "steps": first.steps,
        "copies": len(tree.cells),
        "slots": slots(setup),
        "loss_untrained": float(np.log(data.vocab_size)),
        "unigram_entropy": entropy,
        "device": there.device,
        "available_bytes": there.bytes,
    }
    need = Tree(grid).memory_of(name)
    at_least = need.together - need.heap
    # A GPU refuses what does not fit; a machine without memory falls over, with all that others run on it.
    if not asked.gpus and there.bytes is not None and at_least > there.bytes:
        lacking = f"a worker needs at least {readable(at_least)} and has {readable(there.bytes)} ({there.device})"
        return result | {"verdict": f"not tried: {lacking}; a smaller micro_batch needs less"}
    outcomes = _train(tree, setup)
    outcome = outcomes[tree.cells[0].name]
    if outcome.status == "finished":
        finished = [cell.stages[0] for cell in tree.cells if outcomes[cell.name].status == "finished"]
        result |= _measured(finished, setup, next(iter(grid.corpora)))
    return result | {"verdict": verdict(result, outcome.status, outcome.reason)}


def _train(tree: Tree, setup: Any) -> dict[str, Any]:
    """How the cells ended."""
    from grid.progress import Progress
    from grid.search import train_cells

    missing = set(tree.stages)
    with Progress(tree, missing) as progress:
        return train_cells(tree.cells, missing, setup, progress, lambda cell, outcome: None, retries=0)


def short_grid(grid: Grid, model: str, copies: int) -> Grid:
    """A grid of one model's short stage; the copies, at most as many as the grid's cells of it, differ in seed."""
    corpus, shape = next(iter(grid.corpora)), grid.models[model]
    tokens = min(STEPS * grid.stage.batch * shape.context, grid.stage.tokens)
    copies = min(copies, sum(cell.model == model for cell in Tree(grid).cells))
    return grid.model_copy(
        update={
            "models": {model: shape},
            "baselines": {"rehearsal": (Part(mixture={corpus: 1.0}, tokens=tokens),)},
            "interleaving_ratios": (0.0,),
            "interventions": {"none": PLAIN},
            "seeds": tuple(range(grid.seeds[0], grid.seeds[0] + copies)),
            "grids": (),
        }
    )


def _measured(stages: list[Stage], setup: Any, corpus: str) -> dict[str, Any]:
    """Of the copies that finished: the first one's last loss and memory, the mean speed of all."""
    jobs = [setup.job(stage) for stage in stages]
    records = [job.store.record(job.key) for job in jobs]
    curve = jobs[0].store.curve(jobs[0].key, jobs[0].measured).to_pylist()
    marks = len(setup.evaluation.steps(stages[0].steps))
    tokens = stages[0].trained_tokens
    return {
        "loss": [point["value"] for point in curve if point["name"] == f"loss/{corpus}"][-1],
        "tokens_per_second": tokens / float(np.mean([record["seconds"]["steps"] for record in records])),
        "seconds_per_evaluation": float(np.mean([record["seconds"]["evaluation"] for record in records])) / marks,
        "peak_bytes": max(record["peak_bytes"] for record in records),
        "processor": records[0]["made_with"]["processor"],
    }


def verdict(model: dict[str, Any], status: str, reason: str | None) -> str:
    """`ok`, or everything that is wrong; also notes in `model` how much of the way the loss has fallen."""
    if status != "finished":
        return f"{status}: {reason}"
    start, goal = model["loss_untrained"], model["unigram_entropy"]
    model["fallen"] = (start - model["loss"]) / (start - goal)
    problems = []
    if not model["fallen"] >= WANTED:
        problems.append(
            f"in {model['steps']} steps the loss fell only {model['fallen']:.1%} of the way from ln V, {start:.2f}, to "
            f"the unigram entropy, {goal:.2f} (wanted {WANTED:.0%})"
        )
    if model["available_bytes"] is not None and model["peak_bytes"] > model["available_bytes"]:
        problems.append(
            f"a worker took {readable(model['peak_bytes'])} of the {readable(model['available_bytes'])} that it has "
            f"({model['device']})"
        )
    return "; ".join(problems) or "ok"


def estimate(
    tree: Tree, missing: Collection[str], models: Mapping[str, Mapping[str, Any]], price: float | None
) -> dict[str, Any]:
    """Hours and money of the stages still to train, from each model's measured speed; null where one has none.

    A stage takes its tokens over the tokens per second, times what its intervention computes (`costs`), and its marks
    times the seconds of an evaluation, times what a pass through its model takes. `hours`: all stages packed into the
    model's slots without a gap, but no less than the longest chain of a cell. `device_hours`: devices (CPUs where a
    model gets no GPU) that are held, fractions and all workers counted; `money`: `price` times that. Not in it:
    corpora, starting trials, checkpoints, what is derived once from a stage (samples, a Fisher), idle devices.
    """
    seconds: dict[str, float] = {}
    vocab_size = tree.grid.tokenizer.vocab_size
    todo = {"stages": len(missing), "tokens": sum(tree.stages[identity].trained_tokens for identity in missing)}
    for identity in missing:
        stage, measured = tree.stages[identity], models[tree.model_of[identity]]
        if "tokens_per_second" in measured:
            marks = len(tree.grid.stage.evaluation.steps(stage.steps))
            training = stage.trained_tokens / measured["tokens_per_second"] * costs.flops_share(stage, vocab_size)
            evaluation = marks * measured["seconds_per_evaluation"] * costs.run_share(stage, vocab_size)
            seconds[identity] = training + evaluation
    if len(seconds) < len(missing):
        return todo | {"hours": None, "device_hours": None, "price": price, "money": None}
    lanes = sum(second / models[tree.model_of[identity]]["slots"] for identity, second in seconds.items())
    chains = (sum(seconds.get(stage.identity, 0.0) for stage in (*cell.stages, *cell.branches)) for cell in tree.cells)
    device_hours = sum(second * _devices(tree, identity) for identity, second in seconds.items()) / 3600
    money = None if price is None else price * device_hours
    hours = max(lanes, max(chains, default=0.0)) / 3600
    return todo | {"hours": hours, "device_hours": device_hours, "price": price, "money": money}


def _devices(tree: Tree, identity: str) -> float:
    asked = tree.grid.resources_of(tree.model_of[identity])
    return asked.workers * (asked.gpus or asked.cpus)


def describe(result: Mapping[str, Any]) -> str:
    """The rehearsal for people: a line for each model, what is wrong, and what the whole grid would take."""
    lines = [["model", "parameters", "steps", "loss", "to unigrams", "tokens/s", "memory", "of", "verdict"]]
    for name, model in result["models"].items():
        measured = "loss" in model
        lines.append(
            [
                name,
                f"{model['parameters']:,}",
                str(model["steps"]),
                f"{model['loss_untrained']:.2f} -> {model['loss']:.2f}" if measured else "",
                f"{model['fallen']:.0%}" if measured else "",
                f"{model['tokens_per_second']:,.0f}" if measured else "",
                readable(model["peak_bytes"]) if measured else "",
                readable(model["available_bytes"]),
                model["verdict"],
            ]
        )
    return "\n".join([*aligned(lines), "", _describe_cost(result)])


def _describe_cost(result: Mapping[str, Any]) -> str:
    text = f"still to train: {result['stages']} stages, {result['tokens']:,} tokens"
    if result["hours"] is None:
        return f"{text}; hours are not known before every model has been measured"
    text += f": about {_duration(result['hours'])}, {_duration(result['device_hours'])} of one device"
    return text if result["money"] is None else f"{text}; {result['money']:,.2f} at {result['price']:g} an hour"


def _duration(hours: float) -> str:
    if hours < 2:
        return f"{60 * hours:.1f} minutes" if hours > 1 / 30 else f"{3600 * hours:.0f} seconds"
    return f"{hours:,.1f} hours"


def is_ok(result: Mapping[str, Any]) -> bool:
    """Whether nothing stands against the grid."""
    return all(model["verdict"] == "ok" for model in result["models"].values())
