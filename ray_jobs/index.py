"""The URL index of a grid's source: where every page lies, on which site, and how long it is. Reads no text.

python -m ray_jobs.index CONFIG [key=value ...], CONFIG a grid's YAML. Run again, it goes on where it was stopped.
"""

from collections import Counter
from functools import partial
from pathlib import Path

from filelock import FileLock

from grid.spec import load_grid
from lethe.config import UserError
from lethe.corpora.index import Index, index_unit
from lethe.corpora.remote import BrokenSourceError
from lethe.corpora.source import OnBadFile, Unit, open_source
from lethe.program import parser, run_program
from lethe.progress import RowProgress
from lethe.units import Row
from ray_jobs.mirror import mirrored
from ray_jobs.units import each_unit


def build(source: str, storage: Path, on_bad_file: OnBadFile = "refuse") -> Index:
    """The finished index of a source, made where it is not there yet; returns at once, without Ray, when it is.

    Raises UserError for a source that cannot be read.
    """
    index = Index(open_source(source, storage, on_bad_file), storage)
    if index.manifest is None:
        index.root.mkdir(parents=True, exist_ok=True)
        with FileLock(index.root / f".{index.fingerprint}.lock"):
            if index.manifest is None:  # another program may have finished it while this one waited
                if missing := index.missing_units():
                    _index(missing, index)
                index.finish()
    index.name_newest()
    return index


def _index(units: list[Unit], index: Index) -> None:
    """Damaged files are all named at once, a source that does not answer as soon as it is known."""
    task = partial(_index_one, folder=index.folder, on_bad_file=index.source.on_bad_file)
    progress, problems = RowProgress("indexed", sum(unit.rows for unit in units)), []
    for row in each_unit([unit._asdict() for unit in units], task):
        if row["broken"]:
            raise UserError(row["problem"])
        problems += [row["problem"]] if row["problem"] else []
        progress.done(row["rows"])
    progress.end()
    if problems:
        raise UserError("\n".join(sorted(problems)))


def _index_one(unit: Row, folder: Path, on_bad_file: OnBadFile) -> Row:
    try:
        index_unit(Unit(**unit), folder, on_bad_file)
        return {"rows": unit["rows"], "problem": "", "broken": False}
    except UserError as error:
        return {"rows": unit["rows"], "problem": str(error), "broken": isinstance(error, BrokenSourceError)}


def summary(index: Index) -> str:
    """What a finished index holds, in a few lines."""
    manifest = index.manifest
    assert manifest is not None, f"{index.folder} is not finished"
    counts = Counter(manifest["counts"])
    missing = {name: counts[name] for name in ("no_url", "no_host", "no_registrable_domain", "no_token_count")}
    missing["bad_utf8"] = counts["bad_utf8"]
    odd = ", ".join(f"{name} {count:,}" for name, count in missing.items() if count) or "none"
    size = sum(file["bytes"] for file in manifest["files"].values())
    skipped = [f"skipped {name}: {problem}\n" for name, problem in manifest["skipped"].items()]
    return (
        f"{''.join(skipped)}{counts['rows']:,} rows, {counts['tokens']:,} tokens in {len(index.source.files):,} files\n"
        f"rows without a part: {odd}\n"
        f"index  {index.folder}  ({len(manifest['files']):,} files, {size / 1e6:,.1f} MB)"
    )


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = parser(__doc__).parse_intermixed_args(argv)
    grid = load_grid(arguments.config, arguments.overrides)
    with mirrored(grid):
        print(summary(build(grid.source, grid.storage, grid.on_bad_file)))
    return 0


if __name__ == "__main__":
    run_program(main)
