"""An extraction: several corpora put together, domains from one source, and data sets, unit by unit.

data/corpora/units-FP/        what a scan of the source kept: source.json, what its files were when it began, and
data/corpora/units-FP/UNIT/   the candidates of a unit and its manifest
data/corpora/NAME-FP/         a finished corpus: {train,val}/part-*.parquet, and manifest.json, written last
data/corpora/NAME.json        names the newest of a corpus's folders

Units outlive the corpora made of them, and their FP is of what a scan does only: the source, the words and weights of
all domains, and from which score on it keeps a page. Budgets, shares, and thresholds above `scan_score` can so be moved
without reading the source again. Whoever needs no such move may delete units-FP; then it is scanned anew. The units of
a data set lie likewise in a folder of their own (lethe.corpora.documents).
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lethe.config import UserError
from lethe.corpora.dataset import DatasetCorpus, open_dataset
from lethe.corpora.documents import Documents
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.named import Corpus
from lethe.corpora.parquet import PartWriter, read_json, read_manifest
from lethe.corpora.select import CANDIDATES, Rejects, select
from lethe.corpora.source import BadFileError, OnBadFile, Source, Unit, open_source, read_pages
from lethe.files import fingerprint, write_json

VERSION = 3  # of what the extraction does; counted up whenever it would keep other pages, or split them otherwise
CORPORA = Path("data", "corpora")  # in a storage


@dataclass(frozen=True)
class Extraction:
    """What is put together from where to where. `fingerprint` tells its result from that of any other extraction."""

    source: Source | None
    """None where no corpus is a domain."""
    corpora: Mapping[str, Corpus]
    storage: Path
    documents: Mapping[str, Documents] = field(default_factory=dict)
    """Of the corpora that are data sets."""

    @cached_property
    def fingerprint(self) -> str:
        """8 hexadecimal characters: pages are shared out among the corpora, so each depends on all of them."""
        made_of = [VERSION, self.source and self.source.fingerprint, self._corpora]
        data = {name: documents.opened.fingerprint for name, documents in self.documents.items()}
        return fingerprint([*made_of, data] if data else made_of, 8)

    @property
    def _corpora(self) -> dict[str, Any]:
        """Where a data set lies is not of what is made of it."""
        return {name: corpus.model_dump(mode="json", exclude={"dataset"}) for name, corpus in self.corpora.items()}

    @property
    def domains(self) -> dict[str, CorpusConfig]:
        """The corpora that are cut out of the source."""
        return {name: corpus for name, corpus in self.corpora.items() if isinstance(corpus, CorpusConfig)}

    @cached_property
    def scan_fingerprint(self) -> str:
        """That of the units: of what a scan of the source does."""
        scans = {name: corpus.scan for name, corpus in self.domains.items()}
        return fingerprint([VERSION, self.source and self.source.fingerprint, scans], 8)

    @property
    def root(self) -> Path:
        return self.storage / CORPORA

    @property
    def folders(self) -> dict[str, Path]:
        """Where the corpora lie, or will."""
        return {name: self.root / f"{name}-{self.fingerprint}" for name in self.corpora}

    @property
    def scan_folder(self) -> Path:
        """Where the units of the source lie."""
        return self.root / f"units-{self.scan_fingerprint}"

    @property
    def is_finished(self) -> bool:
        return all(map(read_manifest, self.folders.values()))

    @property
    def units(self) -> list[Unit]:
        """Of the source."""
        return self.source.units if self.source else []

    def missing_units(self) -> list[Unit]:
        """Of the source."""
        return [unit for unit in self.units if read_manifest(self.scan_folder / unit.id) is None]

    def unit_folders(self) -> list[Path]:
        """Of all units, in the order in which what they hold is written."""
        scanned = [self.scan_folder / unit.id for unit in self.units]
        return scanned + [each.folder / unit for each in self.documents.values() for unit in each.units]

    def shared_folders(self) -> list[Path]:
        """The folders that hold its units, by name; other extractions may write to them."""
        scanned = [self.scan_folder] if self.source else []
        return sorted([*scanned, *(each.folder for each in self.documents.values())])

    def begin(self) -> None:
        """Write down what the source's files are.

        Raises UserError where a scan that did not come to its end began on the same source, as it was given, when its
        files were others; and where this very scan did, and its files are now of another version.
        """
        assert self.source is not None
        mine = self._files(self.source)
        for path in sorted(self.root.glob("units-*/source.json")):
            began = read_json(path)
            if not began or any(began.get(key) != mine[key] for key in ("given", "made_by")):
                continue
            if path.parent == self.scan_folder or not began.get("ended"):
                _check_same(began["files"], mine["files"], self.source, path.parent)
        if not (self.scan_folder / "source.json").exists():
            write_json(self.scan_folder / "source.json", mine)

    def end(self) -> None:
        """Write down that all units are there: the source may change from now on, for it then has another scan."""
        assert self.source is not None
        began = read_json(self.scan_folder / "source.json") or self._files(self.source)
        if not began.get("ended"):
            write_json(self.scan_folder / "source.json", began | {"ended": True})

    def _files(self, source: Source) -> dict[str, Any]:
        return {
            "given": source.given,
            "made_by": fingerprint([VERSION, {n: c.scan for n, c in self.domains.items()}, source.on_bad_file]),
            "files": {file.name: [file.size, file.footer, file.etag] for file in source.files},
        }

    def skipped(self) -> dict[str, str]:
        """What was left out of the source because it could not be read, and why: files, and row groups of files."""
        left_out = dict(self.source.skipped) if self.source else {}
        for unit in self.units:
            manifest = read_manifest(self.scan_folder / unit.id) or {}
            if manifest.get("problem"):
                left_out[f"{unit.name}, {unit.row_groups}"] = manifest["problem"]
        return left_out

    def name_newest(self) -> None:
        """Let NAME.json name this extraction's folders."""
        for name, folder in self.folders.items():
            path = self.root / f"{name}.json"
            if not path.is_file() or folder.name not in path.read_text():
                write_json(path, {"folder": folder.name})


def open_extraction(
    source: str, corpora: Mapping[str, Corpus], storage: Path, on_bad_file: OnBadFile = "refuse"
) -> Extraction:
    """The extraction of these corpora: its source is listed if a domain needs it, and its data sets are found.

    Raises UserError as open_source and open_dataset.
    """
    sets = {name: corpus for name, corpus in corpora.items() if isinstance(corpus, DatasetCorpus)}
    documents = {n: Documents(open_dataset(n, corpus, storage), storage / CORPORA) for n, corpus in sets.items()}
    opened = open_source(source, storage, on_bad_file) if len(sets) < len(corpora) else None
    return Extraction(opened, corpora, storage, documents)


def _check_same(began: dict[str, list[Any]], now: dict[str, list[Any]], source: Source, folder: Path) -> None:
    for name in sorted(began.keys() | now.keys()):
        if name not in now or name not in began:
            what = "is gone" if name not in now else "was not there"
        elif began[name][0] != now[name][0]:
            what = f"has {now[name][0]:,} bytes, had {began[name][0]:,}"
        elif began[name][1] != now[name][1]:
            what = "has another footer"
        elif began[name][2] != now[name][2] and began[name][2] and now[name][2]:
            what = f"is version {now[name][2]}, was {began[name][2]}"
        else:
            continue
        raise UserError(
            f"source: found {source.given!r} changed since its units were begun: {name} {what}; allowed: the files as "
            f"they were, or beginning anew without what is made already (delete {folder})"
        )


def scan_unit(
    unit: Unit, corpora: Mapping[str, CorpusConfig], folder: Path, on_bad_file: OnBadFile = "refuse"
) -> dict[str, Any]:
    """Write a unit's candidates (schema CANDIDATES) and manifest to FOLDER/UNIT, and return the manifest.

    A finished unit is left as it is. Raises BadFileError where its file cannot be decoded, or holds fewer or more rows
    than its footer tells, unless such a unit is to be skipped: it then has a manifest that says so, and no
    candidates. Raises UserError where the source changed or does not answer.
    """
    target = folder / unit.id
    if (finished := read_manifest(target)) is not None:
        return finished
    try:
        manifest = _scan(unit, corpora, target)
    except BadFileError as error:
        if on_bad_file == "refuse":
            raise
        shutil.rmtree(target)
        rejects = {name: {"unreadable": unit.rows} for name in corpora}
        manifest = {"problem": str(error), "rejects": rejects, "files": {}, "bytes": 0, "kept": 0}
    manifest = unit._asdict() | manifest
    write_json(target / "manifest.json", manifest)
    return manifest


def _scan(unit: Unit, corpora: Mapping[str, CorpusConfig], folder: Path) -> dict[str, Any]:
    """Write the candidates; what the manifest says of them, of the decoded `bytes` read, and of the rest."""
    rejects: Rejects = {name: Counter() for name in corpora}
    writer, rows, size, kept_rows = PartWriter(folder, CANDIDATES), 0, 0, 0
    for pages in read_pages(unit):
        kept, rejected = select(pages, corpora)
        writer.write(kept)
        rows, size, kept_rows = rows + pages.num_rows, size + pages.nbytes, kept_rows + kept.num_rows
        for name, counts in rejected.items():
            rejects[name].update(counts)
    if rows != unit.rows:
        raise BadFileError(f"{unit.url}: {unit.row_groups}: found {rows} rows; allowed: {unit.rows}")
    return {"problem": "", "rejects": rejects, "files": writer.close(folder), "bytes": size, "kept": kept_rows}
