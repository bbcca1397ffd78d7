"""Run a grid whose corpora and token shards are there: train what is missing, then results, MLflow and report."""

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from filelock import FileLock, Timeout

from grid.cells import Cell
from grid.cluster import ensure_ray
from grid.spec import Grid
from grid.tree import Tree, describe, needed_stages
from lethe.config import UserError
from lethe.evaluation.mine import make_probes
from lethe.files import write_json
from lethe.progress import say
from lethe.tokens.shards import TokenData
from lethe.training.store import StageStore


def check_budgets(tree: Tree, data: TokenData) -> None:
    """Refuse a grid that would read a corpus more often than `stage.max_epochs`, or measure on more than is held out.

    Where more epochs than one are allowed and needed, say so.
    """
    allowed, problems, warned = tree.grid.stage.max_epochs, [], set[str]()
    for (corpus, context), windows in sorted(tree.reads.items()):
        have = data.split(corpus, "train").windows(context)
        if windows > allowed * have:
            problems.append(
                f"stage.max_epochs: found {allowed:g}; corpus {corpus} has {have * context:,} training tokens "
                f"({data.root.name}), a sequence reads {windows * context:,}; allowed: at least "
                f"{windows / max(have, 1):.2f} epochs, fewer stage.tokens, or a larger source"
            )
        elif windows > have and corpus not in warned:
            warned.add(corpus)
            say(f"note: a sequence reads corpus {corpus} {windows / have:.2f} times (stage.max_epochs: {allowed:g})")
        held_out, wanted = data.split(corpus, "val").windows(context), tree.grid.stage.evaluation.sequences
        if held_out < wanted:
            problems.append(
                f"stage.evaluation.sequences: found {wanted:,}; corpus {corpus} holds out {held_out:,} sequences of "
                f"{context} tokens; allowed: at most that, or a larger source or val_share"
            )
    if problems:
        raise UserError("\n".join(problems))


def keys_of(tree: Tree, data: TokenData) -> dict[str, str]:
    """Stage keys by identity."""
    from lethe.training.job import fingerprints

    known = fingerprints(data)
    return {identity: stage.key(known) for identity, stage in tree.stages.items()}


def run(grid: Grid, data: TokenData, uri: str) -> int:
    """Run the grid to its end; returns 0 if every cell is finished, else 1. A second driver on it is refused."""
    grid.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(grid.folder / "lock", timeout=0):
            return _run(grid, data, uri)
    except Timeout:
        raise UserError(f"{grid.folder}: another program runs this grid; wait for it, or give name=ANOTHER") from None


def _run(grid: Grid, data: TokenData, uri: str) -> int:
    from grid.report import write_report
    from grid.results import Results, forgetting_table
    from grid.tracking import Tracker

    tree = Tree(grid)
    check_budgets(tree, data)
    if asked := tree.grid.stage.evaluation.probes:
        make_probes(data, asked)  # once, so that no trial does
    keys, store = keys_of(tree, data), StageStore(grid.storage / "runs" / "stages")
    setup = _setup(tree, data)
    measured = setup.job(next(iter(tree.stages.values()))).measured
    missing = {i for i in tree.stages if not store.has(keys[i], measured, i in setup.carried)}
    plan = tree.plan(keys, frozenset(tree.stages.keys() - missing))
    _check_definitions(grid, plan)
    write_json(grid.folder / "plan.json", plan)
    tracker = Tracker(uri, grid, describe(plan))
    results = Results(grid, tree.cells, store, keys, measured)
    outcomes = _train(tree, missing, setup, results, tracker)
    rows = results.write(outcomes)
    for cell, row in zip(tree.cells, rows, strict=True):
        tracker.log(cell, row, results.curve(cell) if row["status"] == "finished" else None)
    report = write_report(grid.folder)
    print(forgetting_table(rows, list(grid.corpora)))
    bad = [row for row in rows if row["status"] != "finished"]
    for row in bad:
        print(f"{row['cell']}: {row['status']}: {row['reason']}")
    print(f"\nreport  {os.path.relpath(report)}\nMLflow  {tracker.where_to_look()}")
    return 1 if bad else 0


def _setup(tree: Tree, data: TokenData) -> Any:
    from grid.trial import Setup

    grid, stage = tree.grid, tree.grid.stage
    return Setup(
        runs=grid.storage / "runs",
        tokens=data.root,
        corpora=tuple(grid.corpora),
        evaluation=stage.evaluation,
        checkpoint_every=stage.checkpoint_every,
        resources={name: grid.resources_of(name) for name in grid.models},
        carried=tree.carried,
        scratch=grid.folder / "ray",
    )


def _train(tree: Tree, missing: set[str], setup: Any, results: Any, tracker: Any) -> dict[str, Any]:
    """Train what is missing; returns how every cell of the tree ended."""
    from grid.search import Outcome, train_cells

    pending = [cell for cell in tree.cells if needed_stages(cell).keys() & missing]
    outcomes = {cell.name: Outcome("finished") for cell in tree.cells if cell not in pending}
    if not pending:
        say(f"all {len(tree.cells)} cells are finished already; nothing is trained")
        return outcomes
    cells: Mapping[str, Cell] = {cell.name: cell for cell in tree.cells}

    def settled(name: str, outcome: Outcome) -> None:
        if outcome.status == "finished":
            tracker.log(cells[name], results.row(cells[name], outcome), results.curve(cells[name]))

    say(f"training {len(missing)} of {len(tree.stages)} stages for {len(pending)} of {len(tree.cells)} cells")
    ensure_ray()
    check_resources(tree.grid)
    shutil.rmtree(setup.scratch, ignore_errors=True)  # of a run that was killed
    try:
        outcomes |= train_cells(tree, pending, missing, setup, settled)
    finally:
        shutil.rmtree(setup.scratch, ignore_errors=True)
    return {cell.name: outcomes.get(cell.name, Outcome("stopped", "it was not run")) for cell in tree.cells}


def check_resources(grid: Grid) -> None:
    """A cell that asks for more than the cluster has would wait for ever."""
    import ray

    have, problems = ray.cluster_resources(), []
    for name in grid.models:
        asked = grid.resources_of(name)
        for kind, each in (("CPU", asked.cpus), ("GPU", asked.gpus)):
            if each * asked.workers > have.get(kind, 0):
                problems.append(
                    f"resources of model {name}: found {asked.workers} workers with {each:g} {kind} each; allowed: "
                    f"at most {have.get(kind, 0):g} {kind} together, what this cluster has"
                )
    if problems:
        raise UserError("\n".join(problems))


def _check_definitions(grid: Grid, plan: Mapping[str, Any]) -> None:
    """Under one name the axes may grow, but results of another source, tokenizer or model must not be mixed in."""
    try:
        before = json.loads((grid.folder / "plan.json").read_text())
    except (OSError, ValueError):
        return
    old, new = before.get("config", {}), plan["config"]
    changed = [field for field in ("source", "corpora", "tokenizer") if old.get(field) != new[field]]
    models = old.get("models", {})
    changed += [f"model {name}" for name in models if models[name] != new["models"].get(name, models[name])]
    if changed:
        raise UserError(
            f"{grid.folder}: holds a grid with another {', '.join(changed)}; allowed: the same, or another name "
            "(add name=ANOTHER)"
        )
