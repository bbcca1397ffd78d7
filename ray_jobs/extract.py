"""The corpora of a grid: filter its source for domains, read data sets, drop copies, split, and write Parquet.

python -m ray_jobs.extract CONFIG [key=value ...], CONFIG a grid's YAML. Run again, it goes on where it was stopped.
With other thresholds (corpora.food.min_score=50, down to the domain's scan_score), budgets or shares no page of the
source is read again.
"""

from pathlib import Path

from grid.spec import Grid, load_grid
from lethe.config import UserError
from lethe.corpora.listing import list_source, measure, plan, read_listing, read_survey
from lethe.corpora.make import make_corpora, summary
from lethe.corpora.source import open_source
from lethe.program import parser, run_program
from ray_jobs.mirror import mirrored
from ray_jobs.units import each_unit


def make_plan(grid: Grid, listing: Path | None, survey: Path | None, sample: str | None) -> str:
    """What the extraction would read and find; the listing stands for the grid's source."""
    domains = grid.domains("ray_jobs.extract --plan")
    files = read_listing(listing) if listing else list_source(open_source(grid.source, grid.storage, grid.on_bad_file))
    surveyed = read_survey(survey, domains) if survey else None
    measured = measure(open_source(sample, grid.storage), domains) if sample else None
    return plan(files, domains, str(listing or grid.source), surveyed, measured)


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--plan", action="store_true", help="print files, bytes, requests, expected tokens and hours, extract nothing"
    )
    arguments.add_argument(
        "--listing", type=Path, metavar="FILE", help="with --plan: CSV or Parquet of name,bytes,rows[,tokens]"
    )
    arguments.add_argument("--survey", type=Path, metavar="FILE", help="with --plan: ray_jobs.survey's survey.json")
    arguments.add_argument("--sample", metavar="SOURCE", help="with --plan: pages like the source's, to measure on")
    given = arguments.parse_intermixed_args(argv)
    if (given.listing or given.survey or given.sample) and not given.plan:
        raise UserError("--listing, --survey, --sample: found without --plan; allowed: with --plan")
    grid = load_grid(given.config, given.overrides)
    if given.plan:
        print(make_plan(grid, given.listing, given.survey, given.sample))
        return 0
    with mirrored(grid):
        print(summary(make_corpora(grid.source, grid.corpora, grid.storage, grid.on_bad_file, each_unit)))
    return 0


if __name__ == "__main__":
    run_program(main)
