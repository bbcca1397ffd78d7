"""Which pages of a table become candidates for a corpus, and why the others do not."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lethe.corpora.domains import CorpusConfig
from lethe.corpora.schema import FINEWEB
from lethe.corpora.score import SCORES, fits, score

# What a corpus keeps of a page: the row as it came, the site it lies on, and its scores.
PAGES = pa.schema([*FINEWEB, ("host", pa.string()), *SCORES, ("rival_score", pa.float64())])
CANDIDATES = pa.schema([*PAGES, ("corpus", pa.string()), ("text_hash", pa.string())])

_NO_WORD = re.compile(r"[^\x00-\x7f\w]+")
_BETWEEN_WORDS = bytes(b for b in range(128) if not chr(b).isalnum())
_LETTERS = bytes(b for b in range(256) if b > 127 or chr(b).isalpha())  # whatever is not ASCII counts as letters
_VISIBLE = bytes(range(ord(" ") + 1, 256))
_CONTROL = bytes((*range(0x09), *range(0x0E, 0x20)))

LEAD = 2  # a page with half as much of another domain is of both

# Why a page is rejected; the first for one that is not.
REASONS = (
    *("", "no_text", "no_token_count", "bad_utf8", "language", "too_short", "too_long"),
    *("off_topic", "junk", "several_corpora"),
)
_CODE = {reason: code for code, reason in enumerate(REASONS)}

Rejects = dict[str, Counter[str]]


def select(pages: pa.Table, corpora: Mapping[str, CorpusConfig]) -> tuple[pa.Table, Rejects]:
    """The pages (schema FINEWEB) that belong to one corpus, as CANDIDATES in the order they came.

    A page of two domains belongs to neither: one whose `rival_score`, the highest under another corpus, is above half
    its own. Also, for each corpus, how many pages it rejected for which reason: every page is either a candidate for
    it or counted once.
    """
    pages, rejects = _drop_broken(pages, corpora)
    scores, characters = score(pages, list(corpora.values())), _characters(pages["text"], corpora)
    judged = {
        name: (scored, _reasons(pages, characters, scored, corpus))
        for (name, corpus), scored in zip(corpora.items(), scores, strict=True)
    }
    parts, rows = [], []
    for name, (scored, reasons) in judged.items():
        rivals = [judged[other][0]["score"].to_numpy() for other in corpora if other != name]
        rival = np.max([*rivals, np.zeros(pages.num_rows)], axis=0)
        reasons[(reasons == 0) & (scored["score"].to_numpy() < LEAD * rival)] = _CODE["several_corpora"]
        kept = np.flatnonzero(reasons == 0)
        rejects[name].update(_counted(reasons))
        scored = scored.append_column("rival_score", pa.array(rival)).take(pa.array(kept))
        parts.append(_candidates(pages.take(pa.array(kept)), name, scored))
        rows.append(kept)
    in_order = np.argsort(np.concatenate(rows), kind="stable")
    return pa.concat_tables(parts).take(pa.array(in_order)), rejects


def _candidates(pages: pa.Table, name: str, scores: pa.Table) -> pa.Table:
    columns = [*pages.columns, hosts(pages["url"]), *scores.columns]
    columns += [pa.array([name] * pages.num_rows, pa.string())]
    columns += [pa.array([text_hash(text) for text in pages["text"].to_pylist()], pa.string())]
    return pa.table(columns, CANDIDATES)


def hosts(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """The site of each address, in lower case and without `www.`; null where it has none."""
    found = pc.extract_regex(urls, r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#]*@)?(?:(?i:www)\.)?(?P<host>[^/?#:@]+)")
    return pc.utf8_lower(pc.struct_field(found, "host"))


def text_hash(text: str) -> str:
    """32 hexadecimal characters that are equal where texts are, but for case, punctuation and white space."""
    text = text.lower()
    text = text if text.isascii() else _NO_WORD.sub("", text)
    return hashlib.sha256(text.encode().translate(None, _BETWEEN_WORDS)).hexdigest()[:32]


def _drop_broken(pages: pa.Table, corpora: Mapping[str, CorpusConfig]) -> tuple[pa.Table, Rejects]:
    """Leave out rows that nothing can be done with; what remains is valid UTF-8 and has a text and a token count."""
    reasons = np.zeros(pages.num_rows, np.uint8)
    no_text = pc.equal(pc.fill_null(pc.binary_length(pages["text"]), 0), 0).to_numpy()
    no_tokens = pc.less_equal(pc.fill_null(pages["token_count"], 0), 0).to_numpy()
    reasons[no_tokens], reasons[no_text] = _CODE["no_token_count"], _CODE["no_text"]
    for name in FINEWEB.names:
        if pages.schema.field(name).type == pa.string():
            reasons[undecodable(pages[name])] = _CODE["bad_utf8"]
    rejects = {name: _counted(reasons) for name in corpora}
    whole = reasons == 0
    return pages if whole.all() else pages.filter(pa.array(whole)), rejects


def _counted(reasons: np.ndarray) -> Counter[str]:
    counts = np.bincount(reasons, minlength=len(REASONS)).tolist()
    return Counter({name: count for name, count in zip(REASONS, counts, strict=True) if name and count})


def undecodable(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Rows that are not valid UTF-8, bool (rows,)."""
    result = np.zeros(len(column), bool)
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        for row, value in enumerate(column.cast(pa.binary()).to_pylist()):
            try:
                (value or b"").decode()
            except UnicodeDecodeError:
                result[row] = True
    return result


def _characters(text: pa.ChunkedArray, corpora: Mapping[str, CorpusConfig]) -> np.ndarray:
    """How many characters each text has; or bytes, where they tell as surely that it is neither short nor long."""
    result = pc.binary_length(text).to_numpy().copy()
    fewest = max((corpus.min_characters for corpus in corpora.values()), default=0)
    most = min((corpus.max_characters for corpus in corpora.values()), default=0)
    unsure = np.flatnonzero((result < 4 * fewest) | (result > most))  # a character has one to four bytes
    result[unsure] = pc.utf8_length(text.take(pa.array(unsure))).to_numpy()
    return result


def _reasons(pages: pa.Table, characters: np.ndarray, scores: pa.Table, corpus: CorpusConfig) -> np.ndarray:
    """Why each page, of so many characters, is not of the corpus: places in REASONS, uint8 (rows,)."""
    reasons = np.zeros(pages.num_rows, np.uint8)
    reasons[characters > corpus.max_characters] = _CODE["too_long"]
    reasons[characters < corpus.min_characters] = _CODE["too_short"]
    language = pc.is_in(pages["language"], pa.array(corpus.languages, pa.string())).to_numpy()
    certain = pc.greater_equal(pc.fill_null(pages["language_score"], 0), corpus.min_language_score).to_numpy()
    reasons[~(language & certain)] = _CODE["language"]
    reasons[(reasons == 0) & ~fits(scores, corpus)] = _CODE["off_topic"]
    left = np.flatnonzero(reasons == 0)
    for row, text in zip(left, pages["text"].take(pa.array(left)).to_pylist(), strict=True):
        reasons[row] = _CODE["junk"] if _is_junk(text, corpus) else 0
    return reasons


def _is_junk(text: str, corpus: CorpusConfig) -> bool:
    """Whether a text has too few letters, control characters, or repeats its lines."""
    page = text.encode()
    letters, visible, control = (len(page) - len(page.translate(None, kind)) for kind in (_LETTERS, _VISIBLE, _CONTROL))
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    repeated = 1 - len(set(lines)) / max(len(lines), 1)
    few_letters = letters < corpus.min_letters * visible
    return few_letters or control > 0 or repeated > corpus.max_repeated_lines
