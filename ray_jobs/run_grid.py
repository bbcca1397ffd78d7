"""Run a whole grid: build the corpora, tokenizer and token shards that are missing, then train, track and draw it.

Rerunning the same command goes on where the last run stopped; a finished stage is never trained again.
"""

import json
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from grid.spec import Grid, load_grid
from grid.tree import Tree, describe, with_rooms
from lethe.config import UserError
from lethe.corpora.extract import open_extraction
from lethe.devices import room
from lethe.program import parser, run_program
from lethe.tokens.report import add_models
from lethe.tokens.shards import TokenData, is_finished, tokens_folder
from ray_jobs.extract import extract
from ray_jobs.mirror import mirrored
from ray_jobs.tokenize import tokenize


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = parser(__doc__)
    first = arguments.add_mutually_exclusive_group()
    first.add_argument("--plan", action="store_true", help="print the stage tree and its cost, start nothing")
    first.add_argument(
        "--rehearse",
        action="store_true",
        help="train 200 steps of every model on the real shards; exit code 1 if the loss does not fall or memory "
        "does not fit; says how many hours the grid would take",
    )
    arguments.add_argument(
        "--price",
        type=float,
        metavar="PER_HOUR",
        help="with --rehearse: money for an hour of one GPU (of one CPU where a model gets no GPU); multiplied by all "
        "workers' hours, a share of a GPU counting as that share",
    )
    arguments.add_argument("--json", action="store_true", help="with --plan or --rehearse: one JSON object")
    arguments.add_argument("--quiet", action="store_true", help="no progress, only what goes wrong and the results")
    arguments.add_argument("--tracking-uri", help="MLflow's; default: MLFLOW_TRACKING_URI, else mlflow.db in storage")
    given = arguments.parse_intermixed_args(argv)
    if given.price is not None and not (given.rehearse and 0 <= given.price < math.inf):
        raise UserError(f"--price: found {given.price:g}; allowed: with --rehearse, a number from 0")
    grid = load_grid(given.config, given.overrides)
    if given.plan:
        plan = make_plan(grid)
        print(json.dumps(plan) if given.json else describe(plan))
        return 0
    from grid.fit import fit

    if given.rehearse:
        return _rehearse(fit(grid), given.price, given.json)
    from grid.driver import refuse_what_no_cluster_has, run
    from grid.tracking import tracking_uri

    uri, grid = tracking_uri(given.tracking_uri, grid), fit(grid)
    refuse_what_no_cluster_has(grid)  # better known before the data are made
    return run(grid, prepare(grid), uri, given.quiet)


def _rehearse(grid: Grid, price: float | None, as_json: bool) -> int:
    with redirect_stdout(sys.stderr):  # progress; standard output is for the result
        from grid.rehearse import describe, is_ok, rehearse

        result = rehearse(grid, prepare(grid), price)
    print(json.dumps(result, indent=1) if as_json else describe(result))
    return 0 if is_ok(result) else 1


def prepare(grid: Grid) -> TokenData:
    """The grid's token shards, built where they are missing or stale."""
    Tree(grid)  # a grid that cannot be expanded must not cost an extraction
    with mirrored(grid):
        corpora = extract(grid.source, grid.corpora, grid.storage, grid.on_bad_file)
        data = TokenData(tokenize(corpora, grid.tokenizer, grid.storage))
        add_models(data.tokenizer_path.parent, grid.models)
    return data


def make_plan(grid: Grid) -> dict[str, Any]:
    """The plan, whether it fits here, and, where the corpora exist already, stage keys and what will be reused."""
    tree = Tree(grid)
    asked = {name: grid.resources_of(name) for name in grid.models}
    return with_rooms(_plan(tree), {name: room(a.cpus, a.gpus) for name, a in asked.items()})


def _plan(tree: Tree) -> dict[str, Any]:
    grid, tokens = tree.grid, existing_tokens(tree.grid)
    if tokens is None:
        return tree.plan()
    from grid.driver import keys_of
    from lethe.training.store import StageStore

    keys, store = keys_of(tree, TokenData(tokens)), StageStore(grid.storage / "runs" / "stages")
    return tree.plan(keys, frozenset(i for i, key in keys.items() if store.record(key)))


def existing_tokens(grid: Grid) -> Path | None:
    """The folder of the grid's token shards if it is finished; nothing is made, and no source is asked in vain."""
    if not all((grid.storage / "data" / "corpora" / f"{name}.json").is_file() for name in grid.corpora):
        return None
    try:
        extraction = open_extraction(grid.source, grid.corpora, grid.storage, grid.on_bad_file)
        folder = tokens_folder(extraction.folders, grid.tokenizer, grid.storage) if extraction.is_finished else None
        return folder if folder and is_finished(folder, extraction.folders) else None
    except UserError:
        return None


if __name__ == "__main__":
    run_program(main)
