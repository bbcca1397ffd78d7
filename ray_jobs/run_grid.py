"""Run a whole grid: build the corpora, tokenizer and token shards that are missing, then train, track and draw it.

Rerunning the same command goes on where the last run stopped; a finished stage is never trained again.
"""

import json
from pathlib import Path
from typing import Any

from grid.spec import Grid, load_grid
from grid.tree import Tree, describe
from lethe.config import UserError
from lethe.corpora.extract import Extraction
from lethe.corpora.source import open_source
from lethe.program import parser, run_program
from lethe.tokens.shards import TokenData, is_finished, tokens_folder
from ray_jobs.extract import extract
from ray_jobs.tokenize import tokenize


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--plan", action="store_true", help="print the stage tree and its cost, start nothing")
    arguments.add_argument("--json", action="store_true", help="with --plan: one JSON object")
    arguments.add_argument("--tracking-uri", help="MLflow's; default: MLFLOW_TRACKING_URI, else mlflow.db in storage")
    given = arguments.parse_intermixed_args(argv)
    grid = load_grid(given.config, given.overrides)
    if given.plan:
        plan = make_plan(grid)
        print(json.dumps(plan, indent=1) if given.json else describe(plan))
        return 0
    from grid.driver import run
    from grid.tracking import tracking_uri

    return run(grid, prepare(grid), tracking_uri(given.tracking_uri, grid.storage))


def prepare(grid: Grid) -> TokenData:
    """The grid's token shards, built where they are missing or stale."""
    Tree(grid)  # a grid that cannot be expanded must not cost an extraction
    corpora = extract(grid.source, grid.corpora, grid.storage)
    return TokenData(tokenize(corpora, grid.tokenizer, grid.storage))


def make_plan(grid: Grid) -> dict[str, Any]:
    """The plan, with stage keys and what will be reused where the corpora exist already."""
    tree = Tree(grid)
    tokens = existing_tokens(grid)
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
        extraction = Extraction(open_source(grid.source, grid.storage), grid.corpora, grid.storage)
        folder = tokens_folder(extraction.folders, grid.tokenizer, grid.storage) if extraction.is_finished else None
        return folder if folder and is_finished(folder, extraction.folders) else None
    except UserError:
        return None


if __name__ == "__main__":
    run_program(main)
