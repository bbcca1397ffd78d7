"""The domain corpora of a grid: filter its source, drop equal texts, split, and write Parquet.

python -m ray_jobs.extract CONFIG [key=value ...], CONFIG a grid's YAML. Run again, it goes on where it was stopped.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from grid.spec import load_grid
from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import Extraction, scan_unit
from lethe.corpora.merge import describe, merge
from lethe.corpora.parquet import read_manifest
from lethe.corpora.source import Unit, open_source
from lethe.program import parser, run_program

MAX_BLOCKS = 1000  # of a Ray Data set; each has its cost, and a task may scan several units


def extract(source: str, corpora: Mapping[str, CorpusConfig], storage: Path) -> dict[str, Path]:
    """The folders of the corpora, extracted where they are not there yet; see lethe.corpora.extract for what is in.

    Returns at once, without Ray, when they are finished. Raises UserError for a source that cannot be read or that
    holds too little.
    """
    extraction = Extraction(open_source(source, storage), corpora, storage)
    if not extraction.is_finished:
        extraction.root.mkdir(parents=True, exist_ok=True)
        with FileLock(extraction.root / f".{extraction.fingerprint}.lock"):
            if not extraction.is_finished:  # another program may have finished it while this one waited
                if missing := extraction.missing_units():
                    _scan(missing, extraction.corpora, extraction.scratch)
                merge(extraction)
    extraction.name_newest()
    return extraction.folders


def _scan(units: list[Unit], corpora: Mapping[str, CorpusConfig], scratch: Path) -> None:
    """Scan units in parallel; pages never travel, each task writes its own file."""
    from grid.cluster import ensure_ray

    ensure_ray()
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = ray.data.from_items([unit._asdict() for unit in units], override_num_blocks=min(len(units), MAX_BLOCKS))
    scan = partial(_scan_one, corpora=corpora, scratch=scratch)
    scanned = items.map_batches(scan, batch_size=1, batch_format="pyarrow")
    problems = sorted(row["problem"] for row in scanned.take_all() if row["problem"])
    if problems:
        raise UserError("\n".join(problems))


def _scan_one(batch: pa.Table, corpora: Mapping[str, CorpusConfig], scratch: Path) -> pa.Table:
    """One unit; what a user can mend is handed back, for an exception would arrive wrapped in Ray's own."""
    (row,) = batch.to_pylist()
    problem = ""
    try:
        scan_unit(Unit(**row), corpora, scratch)
    except UserError as error:
        problem = str(error)
    return pa.table({"id": [row["id"]], "problem": [problem]})


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
        lines.append(f"{'':<14}rejected: {describe(manifest['rejects'])}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = parser(__doc__).parse_intermixed_args(argv)
    grid = load_grid(arguments.config, arguments.overrides)
    print(summary(extract(grid.source, grid.corpora, grid.storage)))
    return 0


if __name__ == "__main__":
    run_program(main)
