"""Run a whole grid: build the corpora, tokenizer and token shards that are missing, then train, track and draw it.

Rerunning the same command goes on where the last run stopped; a finished stage is never trained again.
"""

import json
import math
import sys
from contextlib import redirect_stdout

from lethe.config import UserError
from lethe.program import parser, run_program
from lethe.progress import say


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
    from grid.spec import load_grid  # only now, as all that is imported below: --help is there at once

    grid = load_grid(given.config, given.overrides)
    if given.plan:
        from grid.tree import describe
        from ray_jobs.prepare import existing_tokens, make_plan, too_small

        tokens = existing_tokens(grid)
        plan = make_plan(grid, tokens)
        print(json.dumps(plan) if given.json else describe(plan))
        if tokens and (refused := too_small(grid, tokens)):
            say(f"note: running it would be refused: {refused}")
        return 0
    from grid.fit import fit
    from ray_jobs.prepare import prepare

    if given.rehearse:
        if grid.bucket:
            raise UserError(f"storage: found {grid.bucket}; allowed with --rehearse: a path")
        with redirect_stdout(sys.stderr):  # progress; standard output is for the result
            from grid import rehearse

            result = rehearse.rehearse(fit(grid), prepare(grid), given.price)
        print(json.dumps(result, indent=1) if given.json else rehearse.describe(result))
        return 0 if rehearse.is_ok(result) else 1
    from grid.driver import refuse_what_no_cluster_has, run
    from grid.tracking import check, tracking_uri

    uri, grid = tracking_uri(given.tracking_uri, grid), fit(grid)
    check(uri)  # better known before the data are made, as is the next
    refuse_what_no_cluster_has(grid)
    return run(grid, prepare(grid), uri, given.quiet)


if __name__ == "__main__":
    run_program(main)
