"""What a grid's source holds of its domains, and whether that feeds the planned models: from the URL index and a sample
of the text.

python -m ray_jobs.survey CONFIG [key=value ...] [--json], CONFIG a grid's YAML. Builds the index where it is missing,
and writes survey.json and survey.html into its folder.
"""

import json
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from grid.spec import Grid, load_grid
from grid.tree import Tree
from lethe.config import UserError
from lethe.corpora.make import make_index
from lethe.corpora.prevalence import ROWS, take
from lethe.corpora.survey import Plan, report
from lethe.files import whole, write_json
from lethe.model.cost import parameters
from lethe.program import parser, run_program
from ray_jobs.mirror import mirrored
from ray_jobs.units import each_unit


def survey(grid: Grid, rows: int) -> tuple[dict[str, Any], Path]:
    """The survey of a grid's source (see lethe.corpora.survey.report), about `rows` rows sampled, and its folder.

    Raises UserError for a source that cannot be read.
    """
    from lethe.corpora.survey_view import picture

    plan, domains = _plan(grid), grid.domains("ray_jobs.survey")
    index = make_index(grid.source, grid.storage, grid.on_bad_file, each_unit)
    manifest = index.manifest
    assert manifest is not None
    sample = take(index.source, domains, rows)
    counts = manifest["counts"]
    found = report(sample, domains, counts["rows"], counts["tokens"], plan, index.files())
    found = {"grid": grid.name, "index": str(index.folder), **found}
    with whole(index.folder / "survey.html") as temporary:
        temporary.write_text(picture(found), encoding="utf-8")
    write_json(index.folder / "survey.json", found)
    return found, index.folder


def _plan(grid: Grid) -> Plan:
    """The models' parameters, and the most training tokens that one sequence reads of each corpus."""
    tokens: dict[str, int] = defaultdict(int)
    for (corpus, context), windows in Tree(grid).reads.items():
        tokens[corpus] = max(tokens[corpus], windows * context)
    sizes = {name: parameters(model, grid.tokenizer.vocab_size) for name, model in grid.models.items()}
    return Plan(sizes, dict(sorted(tokens.items())), grid.stage.max_epochs)


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=ROWS, help="of the sample, about; default: %(default)s")
    arguments.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    given = arguments.parse_intermixed_args(argv)
    if given.rows < 1:
        raise UserError(f"--rows: found {given.rows}; allowed: a number from 1")
    grid = load_grid(given.config, given.overrides)
    with redirect_stdout(sys.stderr), mirrored(grid):
        found, folder = survey(grid, given.rows)
    if given.json:
        print(json.dumps(found))
    else:
        from lethe.corpora.survey_view import table

        print(f"{table(found)}\n\nsurvey   {folder / 'survey.json'}\npicture  {folder / 'survey.html'}")
    return 0


if __name__ == "__main__":
    run_program(main)
