"""What of a storage's runs could be deleted: what none of its grids needs, by their plans, and what killed runs left.

Nothing is deleted without --delete, and nothing while a grid runs there. Corpora and token shards are never touched. A
stage that `lethe.train` or the self-check made in that storage is in no grid's plan: look before you delete.
"""

import json

from grid import clean
from grid.spec import load_grid
from lethe.config import UserError
from lethe.devices import readable
from lethe.program import parser, run_program
from ray_jobs.prepare import existing_tokens, make_plan


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = parser(__doc__, "a grid's YAML; all grids of its storage are looked at")
    arguments.add_argument("--delete", action="store_true", help="delete it")
    arguments.add_argument("--json", action="store_true", help="one JSON object")
    given = arguments.parse_intermixed_args(argv)
    grid = load_grid(given.config, given.overrides)
    if grid.bucket:
        raise UserError(f"storage: found {grid.bucket}; allowed for ray_jobs.clean: a path")
    runs = grid.storage / "runs"
    litter = clean.find(runs, [make_plan(grid, existing_tokens(grid))])
    if given.delete:
        clean.delete(runs, litter)
    total = sum(found.bytes for found in litter)
    if given.json:
        files = [found._asdict() | {"path": str(found.path)} for found in litter]
        print(json.dumps({"bytes": total, "deleted": given.delete, "files": files}, indent=1))
        return 0
    for path, size, why in litter:
        print(f"{readable(size):>10}  {path.relative_to(grid.storage)}  {why}")
    how = "deleted" if given.delete else "could be deleted (--delete)" if litter else "nothing could be deleted"
    print(f"{readable(total):>10}  {how}")
    return 0


if __name__ == "__main__":
    run_program(main)
