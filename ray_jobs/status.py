"""What a grid does or has done, from disk alone: of one that runs, on any machine that sees its storage, or has ended.

Exit code 0 when every cell is finished, else 1.
"""

import json

from grid.progress import describe, life, read
from grid.spec import load_grid
from lethe.program import parser, run_program


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--json", action="store_true", help="one JSON object")
    given = arguments.parse_intermixed_args(argv)
    grid = load_grid(given.config, given.overrides)
    now = read(grid)
    if now is None:
        print("null" if given.json else f"{grid.name}: not run yet in {grid.storage}")
        return 1
    print(json.dumps(now, indent=1) if given.json else "\n".join([*describe(now), life(now)]))
    return 0 if now["cells"]["finished"] == sum(now["cells"].values()) else 1


if __name__ == "__main__":
    run_program(main)
