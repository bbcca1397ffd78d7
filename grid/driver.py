"""Run a grid whose corpora and token shards are there: train what is missing, then results, MLflow and report."""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from filelock import FileLock, Timeout

from grid.cells import Cell
from grid.cluster import ensure_ray
from grid.progress import SILENCE, Progress, progress_file, read
from grid.queue import Outcome
from grid.spec import Grid
from grid.tree import Tree, describe
from lethe.config import UserError
from lethe.devices import readable
from lethe.evaluation.mine import make_probes
from lethe.files import write_json
from lethe.progress import say
from lethe.tokens.shards import TokenData
from lethe.training.store import StageStore

# Fields of a stage that change no weight of it; with another evaluation the curves have other points.
MAY_CHANGE = ("evaluation", "checkpoint_every", "frozen_after", "max_epochs", "relearning_tokens")


def check_budgets(tree: Tree, data: TokenData) -> None:
    """Refuse a grid that would read a corpus more often than `stage.max_epochs`, or measure on more than is held out.

    Where more epochs than one are allowed and needed, say so.
    """
    allowed, warned = tree.grid.stage.max_epochs, set[str]()
    problems: dict[tuple[str, str], str] = {}  # what is read too often once a corpus, of the model that reads most
    for (corpus, context), windows in sorted(tree.reads.items(), key=lambda read: -read[1] * read[0][1]):
        have = data.split(corpus, "train").windows(context)
        if windows > allowed * have:
            problems.setdefault(
                ("max_epochs", corpus),
                f"stage.max_epochs: found {allowed:g}; corpus {corpus} has {have * context:,} training tokens "
                f"({data.root.name}), a sequence reads {windows * context:,}; allowed: at least "
                f"{windows / max(have, 1):.2f} epochs, fewer stage.tokens, or a larger source",
            )
        elif windows > have and corpus not in warned:
            warned.add(corpus)
            say(f"note: a sequence reads corpus {corpus} {windows / have:.2f} times (stage.max_epochs: {allowed:g})")
        held_out, wanted = data.split(corpus, "val").windows(context), tree.grid.stage.evaluation.sequences
        if held_out < wanted:
            problems.setdefault(
                (f"sequences of {context}", corpus),
                f"stage.evaluation.sequences: found {wanted:,}; corpus {corpus} holds out {held_out:,} sequences of "
                f"{context} tokens; allowed: at most that, or a larger source or val_share",
            )
    if problems:
        raise UserError("\n".join(problems.values()))


def keys_of(tree: Tree, data: TokenData) -> dict[str, str]:
    """Stage keys by identity."""
    from lethe.training.job import fingerprints

    known = fingerprints(data)
    return {identity: stage.key(known) for identity, stage in tree.stages.items()}


def run(grid: Grid, data: TokenData, uri: str, quiet: bool = False) -> int:
    """Run the grid to its end; returns 0 if every cell is finished, else 1.

    Raises UserError for a second driver on it, and where its storage cannot be written or read. `uri` is MLflow's. With
    `quiet` only what goes wrong and the results are shown.
    """
    grid.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(grid.folder / "lock", timeout=0):
            if grid.bucket and _is_run_elsewhere(grid):  # a lock holds on this machine alone
                raise taken(grid)
            return _run(grid, data, uri, quiet)
    except Timeout:
        raise taken(grid) from None
    except OSError as error:  # a full disk, a bucket that does not answer
        place = grid.bucket or grid.storage
        kept = f"what is finished is kept in {place}: the same command goes on from here"
        raise UserError(f"{error}; {kept}") from None


def taken(grid: Grid) -> UserError:
    """What to raise where another program has the grid's lock."""
    now = read(grid)
    who = "" if now is None or now["ended"] else f" ({now['host']}, pid {now['pid']})"
    return UserError(f"{grid.folder}: another program runs this grid{who}; wait, or give name=ANOTHER")


def _is_run_elsewhere(grid: Grid) -> bool:
    now = read(grid)
    if now is None or now["ended"] or now["host"] == socket.gethostname():
        return False
    return bool(time.time() - now["updated"] < SILENCE)


def _run(grid: Grid, data: TokenData, uri: str, quiet: bool) -> int:
    from grid.report import write_report
    from grid.results import Results, forgetting_table
    from grid.tracking import Tracker

    tree = Tree(grid)
    check_budgets(tree, data)
    if asked := tree.grid.stage.evaluation.probes:
        make_probes(data, asked)  # once, so that no trial does
    keys, store = keys_of(tree, data), StageStore(grid.storage / "runs" / "stages", grid.mirror)
    setup = make_setup(tree, data)
    measured = setup.job(next(iter(tree.stages.values()))).measured
    store.fetch()
    known = StageStore(store.root, store.bucket, asks=False)  # not once more for each stage
    missing = {i for i in tree.stages if not known.has(keys[i], measured, i in setup.carried)}
    plan = tree.plan(keys, frozenset(tree.stages.keys() - missing))
    if store.bucket:
        store.bucket.pull(grid.folder / "plan.json")
    _check_definitions(grid, plan)
    tracker = Tracker(uri, grid, describe(plan), {name: data.split(name, "train").fingerprint for name in grid.corpora})
    write_json(grid.folder / "plan.json", plan)  # only now, for what was there stays if MLflow refuses
    _check_disk(grid, plan["disk"])
    results = Results(grid, tree.cells, store, keys, measured)
    with Progress(tree, missing, progress_file(grid), quiet) as progress:
        outcomes = _known(tree, missing, known, keys)
        outcomes |= _train(tree, missing, outcomes, setup, results, tracker, progress)
    rows = results.write(outcomes)
    for cell, row in zip(tree.cells, rows, strict=True):
        tracker.log(cell, row, results.curve(cell) if row["status"] == "finished" else None)
    report = write_report(grid.folder)
    if store.bucket:
        store.bucket.push(grid.folder)
        store.bucket.push(setup.scratch, exactly=True)  # nothing: what Ray Train has left there
    print(forgetting_table(rows, list(grid.corpora)))
    unsent = tracker.close()
    progress.sent(unsent)
    bad = [row for row in rows if row["status"] != "finished"]
    for row in bad:
        print(f"{row['cell']}: {row['status']}: {row['reason']}")
    page = report if os.path.relpath(report).startswith("..") else os.path.relpath(report)
    print(f"\nreport  {page}\nMLflow  {tracker.where_to_look()}")
    if unsent:
        print(f"{unsent}; the same command sends them")
    return 1 if bad or unsent else 0


def make_setup(tree: Tree, data: TokenData) -> Any:
    """What the trials of a tree share, a `grid.trial.Setup`."""
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
        frozen_after=stage.frozen_after,
        bucket=grid.mirror,
    )


def _train(
    tree: Tree,
    missing: set[str],
    known: Mapping[str, Outcome],
    setup: Any,
    results: Any,
    tracker: Any,
    progress: Progress,
) -> dict[str, Outcome]:
    """Train what is missing; returns how the cells ended whose end was not `known`."""
    from grid.search import train_cells

    for name, outcome in known.items():
        if outcome.status != "finished":
            progress.settled(name, outcome.status, outcome.reason)
    pending = [cell for cell in tree.cells if cell.name not in known]
    if not pending:
        say(f"all {len(tree.cells)} cells have ended already; nothing is trained")
        return {}
    cells: Mapping[str, Cell] = {cell.name: cell for cell in tree.cells}

    def follow(name: str, outcome: Outcome | None) -> None:
        cell = cells[name]
        if outcome is None:
            tracker.follow(cell, lambda: (results.row(cell, Outcome("running")), results.curve_so_far(cell)))
        elif outcome.status == "finished":
            for stage in cell.needed.values():
                setup.job(stage).await_finished()
            tracker.log(cell, results.row(cell, outcome), results.curve(cell))

    missing = missing & {identity for cell in pending for identity in cell.needed}
    say(f"training {len(missing)} of {len(tree.stages)} stages for {len(pending)} of {len(tree.cells)} cells")
    ensure_ray()
    check_resources(tree.grid)
    return train_cells(pending, missing, setup, progress, follow)


def _known(tree: Tree, missing: set[str], store: StageStore, keys: Mapping[str, str]) -> dict[str, Outcome]:
    """How cells end that need no training: all their stages are finished, or one was given up in an earlier run."""
    given_up = {i: reason for i in missing if (reason := store.diverged(keys[i]))}
    outcomes = {}
    for cell in tree.cells:
        lacks = cell.needed.keys() & missing
        bad = next((identity for identity in lacks if identity in given_up), None)
        if bad:
            reason = f"{given_up[bad]} (to try it again, delete {store.folder(keys[bad])})"
            outcomes[cell.name] = Outcome("diverged", reason)
        elif not lacks:
            outcomes[cell.name] = Outcome("finished")
    return outcomes


def refuse_what_no_cluster_has(grid: Grid) -> None:
    """`check_resources` where more than one CPU is asked for, which any machine has: that needs no Ray."""
    asked = [grid.resources_of(name) for name in grid.models]
    if any(each.gpus or each.workers * each.cpus > 1 for each in asked):
        ensure_ray()
        check_resources(grid)


def check_resources(grid: Grid) -> None:
    """A cell that asks for more than the cluster has would wait for ever, unless the cluster grows. Ray must run."""
    import ray

    have, problems = ray.cluster_resources(), []
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name in grid.models:
        asked = grid.resources_of(name)
        for kind, each in (("CPU", asked.cpus), ("GPU", asked.gpus)):
            together, largest = have.get(kind, 0), max((node.get(kind, 0) for node in nodes), default=0)
            if (each * asked.workers > together or each > largest) and not asked.autoscaled:
                problems.append(
                    f"resources of model {name}: found {asked.workers} workers with {each:g} {kind} each; allowed: "
                    f"at most {together:g} {kind} together, and {largest:g} on one node, as this cluster has them, or "
                    "autoscaled: true"
                )
    if problems:
        raise UserError("\n".join(problems))


def _check_disk(grid: Grid, need: Mapping[str, int]) -> None:
    """Say beforehand that the disk may become full; what is finished then is kept."""
    free, most = shutil.disk_usage(grid.storage).free, need["missing"] + need["checkpoints"]
    if free < most:
        say(f"note: {grid.storage} has {readable(free)} free, and the grid needs {readable(most)} at most")


def _check_definitions(grid: Grid, plan: Mapping[str, Any]) -> None:
    """Under one name the axes may grow, but what a cell's name stands for must stay: cells are told apart by it."""
    try:
        before = json.loads((grid.folder / "plan.json").read_text())
        changed = list(_changed(before["config"], plan["config"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if changed:
        raise UserError(
            f"{grid.folder}: holds a grid with another {', '.join(changed)}; allowed: the same, or another name "
            "(add name=ANOTHER)"
        )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """The fields, of those by whose name cells are known, that are in both and differ."""
    for field in ("source", "corpora", "tokenizer"):
        if old[field] != new[field]:
            yield field
    for field, each in (("models", "model"), ("baselines", "baseline"), ("interventions", "intervention")):
        yield from (f"{each} {name}" for name, value in old[field].items() if new[field].get(name, value) != value)
    for field, value in old["stage"].items():
        if field not in MAY_CHANGE and new["stage"].get(field, value) != value:
            yield f"stage.{field}"
