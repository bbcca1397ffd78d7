"""The domain corpora of a grid: filter its source, drop equal texts, split, and write Parquet.

python -m ray_jobs.extract CONFIG [key=value ...], CONFIG a grid's YAML. Run again, it goes on where it was stopped.
"""

import logging
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from grid.progress import SECONDS_BETWEEN_LINES, clock, say
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

MAX_BLOCKS = 1000  # of a Ray Data set; each has its cost, and a task may scan several units


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
    """Scan units in parallel; pages never travel, each task writes its own file.

    Damaged files are all named at once, a source that does not answer as soon as it is known.
    """
    from grid.cluster import ensure_ray

    ensure_ray()
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = ray.data.from_items([unit._asdict() for unit in units], override_num_blocks=min(len(units), MAX_BLOCKS))
    scan = partial(
        _scan_one,
        corpora=extraction.corpora,
        scratch=extraction.scratch,
        on_bad_file=extraction.source.on_bad_file,
    )
    progress = ScanProgress(sum(unit.rows for unit in units))
    problems = []
    for row in items.map_batches(scan, batch_size=1, batch_format="pyarrow").iter_rows():
        if row["broken"]:
            raise UserError(row["problem"])
        if row["problem"]:
            problems.append(row["problem"])
        progress.scanned(row["rows"], row["bytes"], row["kept"])
    progress.end()
    if problems:
        raise UserError("\n".join(sorted(problems)))


def _scan_one(batch: pa.Table, corpora: Mapping[str, CorpusConfig], scratch: Path, on_bad_file: OnBadFile) -> pa.Table:
    """One unit; what a user can mend is handed back, for an exception would arrive wrapped in Ray's own."""
    (row,) = batch.to_pylist()
    done = {"rows": row["rows"], "bytes": 0, "kept": 0, "problem": "", "broken": False}
    try:
        manifest = scan_unit(Unit(**row), corpora, scratch, on_bad_file)
        done |= {"bytes": manifest["bytes"], "kept": manifest["kept"]}
    except UserError as error:
        done |= {"problem": str(error), "broken": isinstance(error, BrokenSourceError)}
    return pa.Table.from_pylist([done])


class ScanProgress:
    """Rows, MB/s of decoded pages, kept and time left, on standard error.

    One line that is written over on a terminal, else a line every few seconds.
    """

    def __init__(self, rows: int) -> None:
        self.total, self.rows, self.bytes, self.kept = rows, 0, 0, 0
        self.live = sys.stderr.isatty()
        self.started = self.printed = time.monotonic()

    def scanned(self, rows: int, size: int, kept: int) -> None:
        """A unit is done."""
        self.rows, self.bytes, self.kept = self.rows + rows, self.bytes + size, self.kept + kept
        if self.live or time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            self._print()

    def end(self) -> None:
        """All units are done."""
        self._print()
        if self.live:
            print(file=sys.stderr)

    def _print(self) -> None:
        self.printed = time.monotonic()
        elapsed = self.printed - self.started
        left = f", about {clock(elapsed * (self.total - self.rows) / self.rows)} left" if self.rows else ""
        text = (
            f"[{clock(elapsed)}{left}] scanned {self.rows:,} of {self.total:,} rows, "
            f"{self.bytes / 1e6 / max(elapsed, 1e-9):,.1f} MB/s, kept {self.kept:,}"
        )
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)


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
