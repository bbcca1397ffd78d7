"""Check the science in minutes on a CPU: what must be true of forgetting, each assertion with its interval.

python -m ray_jobs.self_check [key=value ...] [--json]; source=GLOB for your own pages, else the built-in sample. Trains
the stages of configs/grids/self_check.yaml that are missing. Writes runs/self_check.json. Exit code 1 if anything
failed that is exact or near-certain.
"""

import argparse
import json
import sys
from contextlib import redirect_stdout
from typing import Any

from grid.spec import Grid, load_grid
from lethe.config import CONFIGS, UserError
from lethe.program import run_program

GRID = CONFIGS / "grids" / "self_check.yaml"
FIELDS = ("source", "storage", "corpora", "on_bad_file", "tokenizer", "models", "seeds", "stage")


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "overrides", nargs="*", metavar="key=value", help=f"of {', '.join(FIELDS)}, e.g. 'source=pages/*.parquet'"
    )
    arguments.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    given = arguments.parse_intermixed_args(argv)
    grid = _load(given.overrides)
    with redirect_stdout(sys.stderr):  # progress; standard output is for the result
        from grid import self_check
        from grid.self_check_measured import same, seeds
        from grid.self_check_stages import Arms, IncompleteError, train
        from lethe.files import write_json
        from ray_jobs.prepare import prepare

        Arms(grid)  # a grid that has not what the checks need must not cost an extraction
        try:
            trained = train(grid, prepare(grid))
        except IncompleteError as error:
            print(error)
            return 1
        found = self_check.checks(seeds(trained), same(trained))
        result = self_check.result(found, grid.source, settings(grid))
        path = grid.storage / "runs" / "self_check.json"
        write_json(path, result)
    print(json.dumps(result) if given.json else f"{self_check.table(found)}\n\nresult  {path}")
    return 0 if self_check.is_ok(found) else 1


def _load(overrides: list[str]) -> Grid:
    for text in overrides:
        field = text.partition("=")[0].partition(".")[0]
        if "=" in text and field not in FIELDS:
            raise UserError(f"command line: found {text!r}; allowed: {', '.join(FIELDS)} (the checks set the rest)")
    return load_grid(GRID, overrides)


def settings(grid: Grid) -> dict[str, Any]:
    """What the numbers hang on, beside the source."""
    stage = grid.stage.model_dump(mode="json", exclude={"checkpoint_every", "max_epochs", "relearning_tokens"})
    (model,) = grid.models
    return {
        "corpora": list(grid.corpora),
        "vocab_size": grid.tokenizer.vocab_size,
        "model": model,
        "seeds": list(grid.seeds),
        "stage": stage,
    }


if __name__ == "__main__":
    run_program(main)
