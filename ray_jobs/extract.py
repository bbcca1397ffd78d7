"""The domain corpora of a grid: filter its source, drop equal texts, split, and write Parquet.

python -m ray_jobs.extract CONFIG [key=value ...], CONFIG a grid's YAML. Run again, it goes on where it was stopped.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from filelock import FileLock

from grid.progress import say
from grid.spec import Grid, load_grid
from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import Extraction, scan_unit
from lethe.corpora.listing import list_source, measure, plan, read_listing, read_survey
from lethe.corpora.merge import describe, merge
from lethe.corpora.parquet import read_manifest
from lethe.corpora.remote import BrokenSourceError
from lethe.corpora.source import OnBadFile, Unit, open_source
from lethe.program import parser, run_program
from ray_jobs.units import Row, RowProgress, each_unit


def extract(
    source: str, corpora: Mapping[str, CorpusConfig], storage: Path, on_bad_file: OnBadFile = "refuse"
) -> dict[str, Path]:
    """The folders of the corpora, extracted where they are not there yet; see lethe.corpora.extract for what is in.

    Returns at once, without Ray, when they are finished. Raises UserError for a source that cannot be read, that
    changed since its extraction began, or that holds too little.
    """
    extraction = Extraction(open_source(source, storage, on_bad_file), corpora, storage)
    if not extraction.is_finished:
        extraction.root.mkdir(parents=True, exist_ok=True)
        with FileLock(extraction.root / f".{extraction.fingerprint}.lock"):
            if not extraction.is_finished:  # another program may have finished it while this one waited
                extraction.begin()
                if missing := extraction.missing_units():
                    _scan(missing, extraction)
                for name, problem in extraction.skipped().items():
                    say(f"skipped {name}: {problem}")
                merge(extraction)
    extraction.name_newest()
    return extraction.folders


def _scan(units: list[Unit], extraction: Extraction) -> None:
    """Damaged files are all named at once, a source that does not answer as soon as it is known."""
    progress, problems = RowProgress("scanned", sum(unit.rows for unit in units)), []
    scan = partial(
        _scan_one,
        corpora=extraction.corpora,
        scratch=extraction.scratch,
        on_bad_file=extraction.source.on_bad_file,
    )
    for row in each_unit([unit._asdict() for unit in units], scan):
        if row["broken"]:
            raise UserError(row["problem"])
        if row["problem"]:
            problems.append(row["problem"])
        progress.done(row["rows"], row["bytes"], row["kept"])
    progress.end()
    if problems:
        raise UserError("\n".join(sorted(problems)))


def _scan_one(unit: Row, corpora: Mapping[str, CorpusConfig], scratch: Path, on_bad_file: OnBadFile) -> Row:
    done = {"rows": unit["rows"], "bytes": 0, "kept": 0, "problem": "", "broken": False}
    try:
        manifest = scan_unit(Unit(**unit), corpora, scratch, on_bad_file)
        return done | {"bytes": manifest["bytes"], "kept": manifest["kept"]}
    except UserError as error:
        return done | {"problem": str(error), "broken": isinstance(error, BrokenSourceError)}


def summary(folders: Mapping[str, Path]) -> str:
    """What finished corpora hold, as a short table."""
    lines = [f"{'corpus':<14}{'documents':>11}{'tokens':>15}{'hosts':>9}{'held out':>10}  {'split':<9}folder"]
    for name, folder in folders.items():
        manifest = read_manifest(folder)
        assert manifest is not None, f"{folder} is not finished"
        held_out = manifest["splits"]["val"]["tokens"] / manifest["tokens"]
        lines.append(
            f"{name:<14}{manifest['documents']:>11,}{manifest['tokens']:>15,}{manifest['hosts']:>9,}{held_out:>10.2%}  "
            f"{manifest['split']:<9}{folder}"
        )
        overlap = ", ".join(f"{share:.2%} {other}" for other, share in manifest["overlap"].items())
        lines.append(f"{'':<14}rejected: {describe(manifest['rejects'])}; val's 13-grams in train: {overlap}")
    return "\n".join(lines)


def make_plan(grid: Grid, listing: Path | None, survey: Path | None, sample: str | None) -> str:
    """What the extraction would read and find; the listing stands for the grid's source."""
    files = read_listing(listing) if listing else list_source(open_source(grid.source, grid.storage, grid.on_bad_file))
    surveyed = read_survey(survey, grid.corpora) if survey else None
    measured = measure(open_source(sample, grid.storage), grid.corpora) if sample else None
    return plan(files, grid.corpora, str(listing or grid.source), surveyed, measured)


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
    print(summary(extract(grid.source, grid.corpora, grid.storage, grid.on_bad_file)))
    return 0


if __name__ == "__main__":
    run_program(main)
