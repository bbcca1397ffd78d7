"""The data rooms beside plain reading and beside datatrove: CPU-seconds of unit functions, each in one warm process.

python -m benchmarks.data [--datatrove PYTHON] [--pages N]. The pages are generated (benchmarks.pages); every file is
read, filtered and indexed in turn by each, and a ratio is the median over the files but the first, which warms all.
datatrove filters row by row by the same rule and must keep the same pages; it lives in an environment of its own, and
without it its figures are null. The last line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.encode import Rival, tokenize_vs_datatrove
from benchmarks.pages import write_pages
from lethe.corpora.domains import CorpusConfig, load_corpus_config
from lethe.corpora.extract import scan_unit
from lethe.corpora.index import index_unit
from lethe.corpora.source import Unit, open_source

FILES = 6
TOKENIZED = 3  # files; the first trains the tokenizer
READ_ROWS = 1000
TURNS = 4  # of scanning all units by so many workers
RIVAL = Path(__file__).with_name("data_rival.py")

Lane = Callable[[Unit], float]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datatrove", type=Path, metavar="PYTHON", help="of the environment that has datatrove")
    parser.add_argument("--pages", type=int, default=150_000, metavar="N", help="default: %(default)s")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_pages(folder / "pages", given.pages, FILES)
        domains = {name: as_kept(name) for name in ("food", "automotive")}
        units = open_source(str(folder / "pages"), folder).units
        figures = filter_figures(units, domains, given.datatrove, folder)
        figures["extract_scaling"] = extract_scaling(units, domains, folder)
        encoded = tokenize_vs_datatrove(files[:TOKENIZED], given.datatrove, folder)
    print(json.dumps(figures | {"tokenize_vs_datatrove": encoded["tokenize_vs_datatrove"], "tokenize": encoded}))


def as_kept(name: str) -> CorpusConfig:
    """A domain of which a scan keeps what the corpus would keep, as the rival does."""
    return load_corpus_config(name).model_copy(update={"scan_score": None})


def filter_figures(
    units: list[Unit], domains: dict[str, CorpusConfig], datatrove: Path | None, folder: Path
) -> dict[str, Any]:
    """The figures of filtering and indexing, and whether datatrove kept the same pages.

    `filter_vs_read`: reading the text over filtering both domains and writing what is kept; `filter_vs_datatrove`:
    datatrove's time over that of ours; `index_rows_per_cpu_s`; each the median, with `minimum` and `maximum`.
    """
    lanes: dict[str, Lane] = {
        "read": _timed(_read_text),
        "filter": _timed(partial(scan_unit, corpora=domains, folder=folder / "units")),
        "index": _timed(partial(index_unit, folder=folder / "index")),
    }
    if datatrove is None:
        rounds = [{name: lane(unit) for name, lane in lanes.items()} for unit in units]
    else:
        with Rival(datatrove, RIVAL) as rival:
            lanes["datatrove"] = partial(_ask, rival, domains=domains, folder=folder / "datatrove")
            rounds = [{name: lane(unit) for name, lane in lanes.items()} for unit in units]
    ratios = {
        "filter_vs_datatrove": [each["datatrove"] / each["filter"] for each in rounds[1:] if "datatrove" in each],
        "filter_vs_read": [each["read"] / each["filter"] for each in rounds[1:]],
        "index_rows_per_cpu_s": [unit.rows / each["index"] for unit, each in zip(units[1:], rounds[1:], strict=True)],
    }
    kept = _ids(folder / "units")
    return {
        **{name: statistics.median(values) if values else None for name, values in ratios.items()},
        "ranges": {name: [min(values), max(values)] for name, values in ratios.items() if values},
        "pages": sum(unit.rows for unit in units),
        "kept": len(kept),
        "same_pages": None if datatrove is None else kept == _ids(folder / "datatrove"),
    }


def _timed(work: Callable[[Unit], Any]) -> Lane:
    def lane(unit: Unit) -> float:
        start = time.process_time()
        work(unit)
        return time.process_time() - start

    return lane


def _read_text(unit: Unit) -> None:
    path = unit.url.removeprefix("file://")
    groups = range(unit.first, unit.last + 1)
    for _ in pq.ParquetFile(path).iter_batches(READ_ROWS, row_groups=groups, columns=["text"], use_threads=False):
        pass


def _ask(rival: Rival, unit: Unit, domains: dict[str, CorpusConfig], folder: Path) -> float:
    job = {
        "source": unit.url.removeprefix("file://"),
        "folder": str(folder / unit.id),
        "domains": {name: domain.model_dump(mode="json") for name, domain in domains.items()},
    }
    return rival.ask(job)["seconds"]


def _ids(folder: Path) -> set[tuple[str, str]]:
    """Corpus and id of every page kept below a folder."""
    tables = (pq.read_table(path, columns=["corpus", "id"]) for path in folder.rglob("*.parquet"))
    return {tuple(row.values()) for table in tables for row in table.to_pylist()}


def extract_scaling(units: list[Unit], domains: dict[str, CorpusConfig], folder: Path) -> float:
    """Pages a second of two workers over those of one, by the clock; starting Ray is left out."""
    return _seconds(units, domains, folder, 1) / _seconds(units, domains, folder, 2)


def _seconds(units: list[Unit], domains: dict[str, CorpusConfig], folder: Path, workers: int) -> float:
    """The best of some turns, of which the first starts the workers."""
    import ray

    from ray_jobs.units import each_unit

    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    times = []
    for turn in range(TURNS):
        scan = partial(_scan_one, domains=domains, scratch=folder / f"workers-{workers}-{turn}")
        start = time.monotonic()
        for _ in each_unit([unit._asdict() for unit in units], scan):
            pass
        times.append(time.monotonic() - start)
    ray.shutdown()
    return min(times)


def _scan_one(unit: dict[str, Any], domains: dict[str, CorpusConfig], scratch: Path) -> dict[str, Any]:
    return {"kept": scan_unit(Unit(**unit), domains, scratch)["kept"]}


if __name__ == "__main__":
    main()
