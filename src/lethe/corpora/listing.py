"""What an extraction would read, find and take, told before it starts, from a listing or from footers.

Nothing is invented: what is in the domains comes from a survey or from a sample of pages that is measured here, how
fast a core is from the sample; without them the plan says what is missing.
"""

import csv
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lethe.config import UserError
from lethe.corpora.domains import CorpusConfig
from lethe.corpora.parquet import read_json
from lethe.corpora.prevalence import Share, share, take
from lethe.corpora.remote import PIECE
from lethe.corpora.source import UNIT_BYTES, Source

CORES = 16
SAMPLE_ROWS = 20_000
COLUMNS = ("name", "bytes", "rows")  # and, if they are known, `tokens`
ALLOWED = "a CSV with a header, or a Parquet file, of the columns name, bytes, rows and, if they are known, tokens"


class Listed(NamedTuple):
    """A file of a source; `units` and `tokens` (the source's own) where they are known."""

    name: str
    bytes: int
    rows: int
    tokens: int | None = None
    units: int | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of pages like the source's, and from where.

    `shares`: of the tokens, for each corpus; tokens and decoded bytes of a row; rows that a core filters a second.
    """

    origin: str
    shares: Mapping[str, Share]
    tokens_a_row: float
    bytes_a_row: float | None = None
    rows_a_second: float | None = None


def read_listing(path: Path) -> list[Listed]:
    """The files that a listing names. Raises UserError naming file, line and column of what is wrong in it."""
    try:
        rows = list(_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as a listing: {error}; allowed: {ALLOWED}") from None
    seen: set[str] = set()
    files = []
    for number, row in enumerate(rows, 2 if path.suffix == ".csv" else 1):
        where = f"{path}:{number}"
        tokens = row.get("tokens")
        name = row.get("name")
        if not isinstance(name, str) or not name or name in seen:
            raise UserError(f"{where}: name: found {name!r}; allowed: text that no other file is called")
        seen.add(name)
        known = None if tokens in (None, "") else _count(where, "tokens", tokens)
        files.append(Listed(name, _count(where, "bytes", row["bytes"]), _count(where, "rows", row["rows"]), known))
    if not files:
        raise UserError(f"{path}: found no files; allowed: {ALLOWED}")
    return files


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        _check_columns(path, table.column_names)
        yield from table.to_pylist()
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        _check_columns(path, list(reader.fieldnames or ()))
        yield from reader


def _check_columns(path: Path, found: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        raise UserError(
            f"{path}: column {missing[0]}: missing (found: {', '.join(found) or 'none'}); allowed: {ALLOWED}"
        )


def _count(where: str, column: str, value: Any) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = -1
    if count < 0 or isinstance(value, float):
        raise UserError(f"{where}: {column}: found {value!r}; allowed: a whole number from 0")
    return count


def list_source(source: Source) -> list[Listed]:
    """The same of a source whose footers were read."""
    return [
        Listed(file.name, file.size, sum(rows for rows, _ in file.row_groups), None, sum(1 for _ in file.units()))
        for file in source.files
    ]


def measure(source: Source, corpora: Mapping[str, CorpusConfig]) -> Facts:
    """What about SAMPLE_ROWS pages of a source tell of pages like them; see prevalence for how they are drawn.

    These pages stand for others, so shares have an interval even where the whole of the source is read.
    """
    started = time.process_time()
    sample = replace(take(source, corpora, SAMPLE_ROWS), groups=sys.maxsize)
    seconds = time.process_time() - started
    weight = sample.weight
    return Facts(
        origin=f"{len(weight):,} rows of {source.given}",
        shares={name: share(sample, sample.corpus == name, sample.tokens) for name in corpora},
        tokens_a_row=float((weight * sample.tokens).sum() / weight.sum()),
        bytes_a_row=sum(size for file in source.files for _, size in file.row_groups) / source.rows,
        rows_a_second=len(weight) / max(seconds, 1e-9),
    )


def read_survey(path: Path, corpora: Mapping[str, CorpusConfig]) -> Facts:
    """The same, but for sizes and speed, from the survey.json of ray_jobs.survey."""
    survey = read_json(path)
    try:
        assert survey is not None
        tokens = {name: survey["domains"][name]["tokens"] for name in corpora}
        shares = {
            name: Share(*(float(found[key]) for key in ("share", "low", "high"))) for name, found in tokens.items()
        }
        each = survey["source"]["tokens"] / survey["source"]["rows"]
    except (AssertionError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{path}: found no survey of {', '.join(corpora)} ({error!r}); allowed: a survey.json of ray_jobs.survey"
        ) from None
    return Facts(str(path), shares, each)


def plan(
    files: list[Listed],
    corpora: Mapping[str, CorpusConfig],
    given: str,
    survey: Facts | None = None,
    sample: Facts | None = None,
) -> str:
    """The plan as a short table; a survey's shares go before a sample's. What is not known is told with its remedy."""
    size, rows = sum(file.bytes for file in files), sum(file.rows for file in files)
    facts = survey or sample
    tokens, origin = _tokens(files, rows, facts)
    lines = [
        f"source      {given}: {len(files):,} files, {size:,} bytes, {rows:,} rows",
        f"tokens      {origin if tokens is None else f'{tokens:,}, {origin}'}",
        f"requests    at least {_requests(files, sample):,}, if it is remote: of each file the footer; of each unit "
        f"its version twice, the footer, and its bytes {PIECE >> 20} MiB at a time",
    ]
    lines += [
        f"{name:<11} {_domain(corpus, facts.shares[name] if facts else None, tokens)}"
        for name, corpus in corpora.items()
    ]
    if facts:
        lines.append(f"shares      from {facts.origin}, with 95% intervals; copies are not dropped yet")
    if sample and sample.rows_a_second:
        hours = rows / sample.rows_a_second / CORES / 3600
        speed = f"at {sample.rows_a_second:,.0f} rows a CPU-second, measured here on {sample.origin}"
        lines.append(f"hours       {hours:,.2f} on {CORES} cores like this one, {speed}; a network's time not counted")
    else:
        lines.append(
            "hours       not known: missing is --sample SOURCE, pages like these, to measure a core's speed on"
        )
    return "\n".join(lines)


def _tokens(files: list[Listed], rows: int, facts: Facts | None) -> tuple[int | None, str]:
    known = [file.tokens for file in files if file.tokens is not None]
    if len(known) == len(files):
        return sum(known), "as the listing says"
    if facts is None:
        return None, "not known: missing is --survey FILE, --sample SOURCE, or a column `tokens` without gaps"
    return round(rows * facts.tokens_a_row), f"at {facts.tokens_a_row:,.1f} a row of {facts.origin}"


def _requests(files: list[Listed], sample: Facts | None) -> int:
    total = 0
    for file in files:
        decoded = file.rows * (sample.bytes_a_row or 0) if sample else 0
        units = file.units or max(1, math.ceil(decoded / UNIT_BYTES))
        total += 1 + 3 * units + max(units, math.ceil(file.bytes / PIECE))
    return total


def _domain(corpus: CorpusConfig, found: Share | None, tokens: int | None) -> str:
    budget = f"budget {corpus.tokens:,}" if corpus.tokens else "no budget"
    if found is None or tokens is None:
        return f"expected tokens not known: missing is --survey FILE or --sample SOURCE; {budget}"
    low, value, high = (round(part * tokens) for part in (found.low, found.value, found.high))
    return f"{value:,} tokens expected ({low:,} to {high:,}), {found.value:.2%} of the source's; {budget}"
