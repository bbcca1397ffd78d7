"""The corpora of a configuration, and the index of a source, made where they are missing; in this process, or however
units are run."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from lethe.config import UserError
from lethe.corpora.documents import Documents
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.extract import Extraction, open_extraction, scan_unit
from lethe.corpora.index import Index, index_unit
from lethe.corpora.merge import describe, merge
from lethe.corpora.named import Corpus
from lethe.corpora.parquet import read_manifest
from lethe.corpora.remote import BrokenSourceError
from lethe.corpora.source import OnBadFile, Unit, open_source
from lethe.progress import RowProgress, say
from lethe.units import Each, Row, in_turn


def make_corpora(
    source: str,
    corpora: Mapping[str, Corpus],
    storage: Path,
    on_bad_file: OnBadFile = "refuse",
    each: Each = in_turn,
) -> dict[str, Path]:
    """The folders of the corpora, made where they are not there yet; see lethe.corpora.extract for what is in.

    Returns at once when they are finished. Raises UserError for a source or data set that cannot be read, that changed
    since its scan began, or that holds too little.
    """
    extraction = open_extraction(source, corpora, storage, on_bad_file)
    if not extraction.is_finished:
        extraction.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            for folder in extraction.shared_folders():  # in one order, so that no two programs wait for each other
                locks.enter_context(FileLock(extraction.root / f".{folder.name}.lock"))
            if not extraction.is_finished:  # another program may have finished it while this one waited
                _fill_units(extraction, each)
                for name, problem in extraction.skipped().items():
                    say(f"skipped {name}: {problem}")
                merge(extraction)
    extraction.name_newest()
    return extraction.folders


def make_index(source: str, storage: Path, on_bad_file: OnBadFile = "refuse", each: Each = in_turn) -> Index:
    """The finished index of a source, made where it is not there yet; returns at once when it is.

    Raises UserError for a source that cannot be read.
    """
    index = Index(open_source(source, storage, on_bad_file), storage)
    if index.manifest is None:
        index.root.mkdir(parents=True, exist_ok=True)
        with FileLock(index.root / f".{index.fingerprint}.lock"):
            if index.manifest is None:  # another program may have finished it while this one waited
                task = partial(_index, folder=index.folder, on_bad_file=on_bad_file)
                _run_units(each, index.missing_units(), task, "indexed")
                index.finish()
    index.name_newest()
    return index


def _fill_units(extraction: Extraction, each: Each) -> None:
    if extraction.source:
        extraction.begin()
        on_bad_file = extraction.source.on_bad_file
        scan = partial(_scan, corpora=extraction.domains, folder=extraction.scan_folder, on_bad_file=on_bad_file)
        _run_units(each, extraction.missing_units(), scan, "scanned")
        extraction.end()
    for name, documents in extraction.documents.items():
        if names := documents.missing:
            _run(each, [{"unit": unit} for unit in names], partial(_write, documents=documents), f"{name}: read", None)


def _run_units(each: Each, units: list[Unit], task: Callable[[Row], Row], verb: str) -> None:
    if units:
        _run(each, [unit._asdict() for unit in units], task, verb, sum(unit.rows for unit in units))


def _run(each: Each, units: list[Row], task: Callable[[Row], Row], verb: str, rows: int | None) -> None:
    """Damaged files are all named at once, a source that does not answer as soon as it is known."""
    progress, problems = RowProgress(verb, rows), []
    for row in each(units, task):
        if row["broken"]:
            raise UserError(row["problem"])
        if row["problem"]:
            problems.append(row["problem"])
        progress.done(row["rows"], row["bytes"], row["kept"])
    progress.end()
    if problems:
        raise UserError("\n".join(sorted(problems)))


def _scan(unit: Row, corpora: Mapping[str, CorpusConfig], folder: Path, on_bad_file: OnBadFile) -> Row:
    return _tell(unit["rows"], lambda: scan_unit(Unit(**unit), corpora, folder, on_bad_file))


def _index(unit: Row, folder: Path, on_bad_file: OnBadFile) -> Row:
    def make() -> dict[str, Any]:
        index_unit(Unit(**unit), folder, on_bad_file)
        return {"rows": unit["rows"], "bytes": 0, "kept": None}

    return _tell(unit["rows"], make)


def _write(unit: Row, documents: Documents) -> Row:
    return _tell(0, lambda: documents.write(unit["unit"]))


def _tell(rows: int, make: Callable[[], dict[str, Any]]) -> Row:
    """What a unit's manifest says, or what a user can mend."""
    try:
        manifest = make()
    except UserError as error:
        broken = isinstance(error, BrokenSourceError)
        return {"rows": rows, "bytes": 0, "kept": None, "problem": str(error), "broken": broken}
    return {key: manifest[key] for key in ("rows", "bytes", "kept")} | {"problem": "", "broken": False}


def summary(folders: Mapping[str, Path]) -> str:
    """What finished corpora hold, and the units that they were made of, as a short table."""
    lines = [f"{'corpus':<14}{'documents':>11}{'tokens':>15}{'hosts':>9}{'held out':>10}  {'split':<9}folder"]
    units = {}
    for name, folder in folders.items():
        manifest = read_manifest(folder)
        assert manifest is not None, f"{folder} is not finished"
        units[folder.parent / manifest["units"]["folder"]] = manifest["units"]
        held_out = manifest["splits"]["val"]["tokens"] / manifest["tokens"]
        lines.append(
            f"{name:<14}{manifest['documents']:>11,}{manifest['tokens']:>15,}{manifest['hosts']:>9,}{held_out:>10.2%}  "
            f"{manifest['split']:<9}{folder}"
        )
        overlap = ", ".join(f"{share:.2%} {other}" for other, share in manifest["overlap"].items())
        lines.append(f"{'':<14}rejected: {describe(manifest['rejects'])}; val's 13-grams in train: {overlap}")
        if (doubled := manifest["duplicate_ids"])["count"]:
            lines.append(
                f"{'':<14}ids of several candidates: {doubled['count']:,}, such as {', '.join(doubled['some'])}"
            )
    for folder, facts in units.items():
        if folder.is_dir():
            lines.append(
                f"units: {facts['candidates']:,} candidates in {facts['bytes'] / 1e6:,.1f} MB, kept so that thresholds "
                f"move without another scan; may be deleted: {folder}"
            )
    return "\n".join(lines)
