"""An extraction: several corpora drawn from one source together, unit by unit.

data/corpora/units-FP/UNIT/   the candidates of a unit and its manifest, while the extraction runs
data/corpora/NAME-FP/         a finished corpus: {train,val}/part-*.parquet, and manifest.json, written last
data/corpora/NAME.json        names the newest of a corpus's folders
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.parquet import PartWriter, read_manifest
from lethe.corpora.select import CANDIDATES, Rejects, select
from lethe.corpora.source import Source, Unit, read_pages
from lethe.files import fingerprint, write_json

VERSION = 1  # of what the extraction does; counted up whenever it would keep other pages, or split them otherwise


@dataclass(frozen=True)
class Extraction:
    """What is extracted from where to where. `fingerprint` tells its result from that of any other extraction."""

    source: Source
    corpora: Mapping[str, CorpusConfig]
    storage: Path

    @cached_property
    def fingerprint(self) -> str:
        """8 hexadecimal characters: pages are shared out among the corpora, so each depends on all of them."""
        corpora = {name: corpus.model_dump(mode="json") for name, corpus in self.corpora.items()}
        return fingerprint([VERSION, self.source.fingerprint, corpora], 8)

    @property
    def root(self) -> Path:
        return self.storage / "data" / "corpora"

    @property
    def folders(self) -> dict[str, Path]:
        """Where the corpora lie, or will."""
        return {name: self.root / f"{name}-{self.fingerprint}" for name in self.corpora}

    @property
    def scratch(self) -> Path:
        """Where finished units lie while the extraction runs."""
        return self.root / f"units-{self.fingerprint}"

    @property
    def is_finished(self) -> bool:
        return all(is_finished(folder) for folder in self.folders.values())

    def missing_units(self) -> list[Unit]:
        return [unit for unit in self.source.units if read_manifest(self.scratch / unit.id) is None]

    def name_newest(self) -> None:
        """Let NAME.json name this extraction's folders."""
        for name, folder in self.folders.items():
            path = self.root / f"{name}.json"
            if not path.is_file() or folder.name not in path.read_text():
                write_json(path, {"folder": folder.name})


def is_finished(folder: Path) -> bool:
    """Whether a corpus's folder is whole: its manifest is there, and every file it lists in full length."""
    return read_manifest(folder) is not None


def scan_unit(unit: Unit, corpora: Mapping[str, CorpusConfig], scratch: Path) -> None:
    """Write a unit's candidates (schema CANDIDATES) and manifest to SCRATCH/UNIT; a finished unit is left as it is.

    Raises UserError where its file cannot be decoded, or holds fewer or more rows than its footer tells.
    """
    folder = scratch / unit.id
    if read_manifest(folder) is not None:
        return
    rejects: Rejects = {name: Counter() for name in corpora}
    writer, rows = PartWriter(folder, CANDIDATES), 0
    for pages in read_pages(unit):
        kept, rejected = select(pages, corpora)
        writer.write(kept)
        rows += pages.num_rows
        for name, counts in rejected.items():
            rejects[name].update(counts)
    if rows != unit.rows:
        raise UserError(f"{unit.url}: row groups {unit.first} to {unit.last}: found {rows} rows; allowed: {unit.rows}")
    write_json(folder / "manifest.json", {**unit._asdict(), "rejects": rejects, "files": writer.close(folder)})
