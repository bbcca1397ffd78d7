"""The data benchmark: its pages, its figures without a rival, and its rival's rule, a second reading of ours."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from benchmarks.data import as_kept, filter_figures
from benchmarks.data_rival import Domain, _corpus
from benchmarks.pages import ROW_GROUP_ROWS, write_pages
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.schema import FINEWEB
from lethe.corpora.select import select
from lethe.corpora.source import open_source, read_pages

PAGES = 1500


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    write_pages(folder, PAGES, 2)
    return folder


@pytest.fixture(scope="module")
def domains() -> dict[str, CorpusConfig]:
    return {name: as_kept(name) for name in ("food", "automotive")}


def test_pages_are_those_of_fineweb_in_form_and_a_twentieth_are_of_a_domain(
    pages: Path, domains: dict[str, CorpusConfig]
) -> None:
    tables = [pq.read_table(path) for path in sorted(pages.glob("*.parquet"))]
    assert [table.num_rows for table in tables] == [750, 750]
    assert all(table.schema == FINEWEB for table in tables)
    assert pq.read_metadata(pages / "00000.parquet").num_row_groups == -(-750 // ROW_GROUP_ROWS)
    kept = sum(select(table, domains)[0].num_rows for table in tables)
    assert 0.03 < kept / PAGES < 0.08


def test_figures_without_a_rival_are_null(pages: Path, domains: dict[str, CorpusConfig], tmp_path: Path) -> None:
    figures = filter_figures(open_source(str(pages), tmp_path).units, domains, None, tmp_path)
    assert figures["filter_vs_datatrove"] is None and figures["same_pages"] is None
    assert figures["filter_vs_read"] > 0 and figures["index_rows_per_cpu_s"] > 0
    assert figures["pages"] == PAGES and figures["kept"] > 0


@pytest.mark.parametrize("source", ["generated", "sample"])
def test_the_rival_keeps_the_same_pages(
    source: str, pages: Path, domains: dict[str, CorpusConfig], tmp_path: Path
) -> None:
    rules = {name: Domain(domain.model_dump(mode="json")) for name, domain in domains.items()}
    given = "sample" if source == "sample" else str(pages)
    ours, theirs = {}, {}
    for unit in open_source(given, tmp_path, "skip").units:
        for table in read_pages(unit):
            kept, _ = select(table, domains)
            ours |= dict(zip(kept["id"].to_pylist(), kept["corpus"].to_pylist(), strict=True))
            for row in table.to_pylist() if source == "generated" else kept.select(FINEWEB.names).to_pylist():
                document = SimpleNamespace(text=row["text"], metadata=dict(row))
                if _corpus(document, rules):
                    theirs[row["id"]] = document.metadata["corpus"]
    assert ours == theirs
    assert len(ours) > 20
