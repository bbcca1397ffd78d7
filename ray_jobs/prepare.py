"""What a grid needs before it is trained: its plan, and its corpora, tokenizer and token shards."""

from pathlib import Path
from typing import Any

from grid.spec import Grid
from grid.tree import Tree, with_rooms
from lethe.config import UserError
from lethe.corpora.extract import open_extraction
from lethe.corpora.make import make_corpora
from lethe.devices import room
from lethe.tokens.make import make_tokens
from lethe.tokens.report import add_models
from lethe.tokens.shards import TokenData, is_finished, tokens_folder
from ray_jobs.mirror import mirrored
from ray_jobs.units import each_unit


def prepare(grid: Grid) -> TokenData:
    """The grid's token shards, built where they are missing or stale."""
    Tree(grid)  # a grid that cannot be expanded must not cost an extraction
    with mirrored(grid):
        corpora = make_corpora(grid.source, grid.corpora, grid.storage, grid.on_bad_file, each_unit)
        data = TokenData(make_tokens(corpora, grid.tokenizer, grid.storage, each_unit))
        add_models(data.tokenizer_path.parent, grid.models)
    return data


def make_plan(grid: Grid, tokens: Path | None) -> dict[str, Any]:
    """The plan, whether it fits here, and, where there are `tokens` already, stage keys and what will be reused."""
    tree = Tree(grid)
    asked = {name: grid.resources_of(name) for name in grid.models}
    return with_rooms(_plan(tree, tokens), {name: room(a.cpus, a.gpus) for name, a in asked.items()})


def _plan(tree: Tree, tokens: Path | None) -> dict[str, Any]:
    if tokens is None:
        return tree.plan()
    from grid.driver import keys_of
    from lethe.training.store import StageStore

    keys, store = keys_of(tree, TokenData(tokens)), StageStore(tree.grid.storage / "runs" / "stages")
    return tree.plan(keys, frozenset(i for i, key in keys.items() if store.record(key)))


def too_small(grid: Grid, tokens: Path) -> str | None:
    """Why these tokens do not suffice for the grid; None if they do."""
    from grid.driver import check_budgets

    try:
        check_budgets(Tree(grid), TokenData(tokens))
    except UserError as error:
        return str(error)
    return None


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
