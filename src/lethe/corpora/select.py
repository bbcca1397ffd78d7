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

LEAD = 2  # a page with half as much of another domain is of both

Rejects = dict[str, Counter[str]]


def select(pages: pa.Table, corpora: Mapping[str, CorpusConfig]) -> tuple[pa.Table, Rejects]:
    """The pages (schema FINEWEB) that belong to one corpus, as CANDIDATES in the order they came.

    A page of two domains belongs to neither: one whose `rival_score`, the highest under another corpus, is above half
    its own. Also, for each corpus, how many pages it rejected for which reason: every page is either a candidate for
    it or counted once.
    """
    pages, rejects = _drop_broken(pages, corpora)
    judged = {name: _judge(pages, corpus) for name, corpus in corpora.items()}
    parts, rows = [], []
    for name, (scores, reasons) in judged.items():
        rivals = [judged[other][0]["score"].to_numpy() for other in corpora if other != name]
        rival = np.max([*rivals, np.zeros(pages.num_rows)], axis=0)
        reasons[(reasons == "") & (scores["score"].to_numpy() < LEAD * rival)] = "several_corpora"
        kept = np.flatnonzero(reasons == "")
        rejects[name].update(reason for reason in reasons.tolist() if reason)
        scores = scores.append_column("rival_score", pa.array(rival)).take(pa.array(kept))
        parts.append(_candidates(pages.take(pa.array(kept)), name, scores))
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
    normal = re.sub(r"[\W_]+", " ", text.lower()).strip()
    return hashlib.sha256(normal.encode()).hexdigest()[:32]


def _drop_broken(pages: pa.Table, corpora: Mapping[str, CorpusConfig]) -> tuple[pa.Table, Rejects]:
    """Leave out rows that nothing can be done with; what remains is valid UTF-8 and has a text and a token count."""
    reasons = np.full(pages.num_rows, "", object)
    no_text = pc.equal(pc.fill_null(pc.binary_length(pages["text"]), 0), 0).to_numpy()
    no_tokens = pc.less_equal(pc.fill_null(pages["token_count"], 0), 0).to_numpy()
    reasons[no_tokens], reasons[no_text] = "no_token_count", "no_text"
    for name in FINEWEB.names:
        if pages.schema.field(name).type == pa.string():
            reasons[undecodable(pages[name])] = "bad_utf8"
    rejects = {name: Counter(reason for reason in reasons.tolist() if reason) for name in corpora}
    return pages.filter(pa.array(reasons == "")), rejects


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


def _judge(pages: pa.Table, corpus: CorpusConfig) -> tuple[pa.Table, np.ndarray]:
    """Scores of each page, and why it is not of the corpus: object (rows,), "" where it is."""
    reasons = np.full(pages.num_rows, "", object)
    length = pc.utf8_length(pages["text"]).to_numpy()
    reasons[length > corpus.max_characters] = "too_long"
    reasons[length < corpus.min_characters] = "too_short"
    language = pc.is_in(pages["language"], pa.array(corpus.languages, pa.string())).to_numpy()
    certain = pc.greater_equal(pc.fill_null(pages["language_score"], 0), corpus.min_language_score).to_numpy()
    reasons[~(language & certain)] = "language"
    # The kernels must not run over what is out already: it may be megabytes long.
    text = pc.if_else(pa.array(reasons == ""), pages["text"], None)
    scores = score(pa.table({"text": text, "url": pages["url"]}), corpus)
    reasons[(reasons == "") & ~fits(scores, corpus)] = "off_topic"
    left = np.flatnonzero(reasons == "")
    reasons[left[_is_junk(pages["text"].take(pa.array(left)), corpus)]] = "junk"
    return scores, reasons


def _is_junk(text: pa.ChunkedArray, corpus: CorpusConfig) -> np.ndarray:
    """Texts of too few letters, with control characters, or that repeat their lines, bool (rows,)."""
    letters = pc.utf8_length(pc.replace_substring_regex(text, r"[^\pL]+", "")).to_numpy()
    visible = pc.utf8_length(pc.replace_substring_regex(text, r"\s+", "")).to_numpy()
    control = pc.match_substring_regex(text, r"[\x00-\x08\x0e-\x1f]").to_numpy()
    lines = [[line.strip() for line in page.splitlines() if line.strip()] for page in text.to_pylist()]
    repeated = np.array([1 - len(set(page)) / max(len(page), 1) for page in lines])
    return control | (letters < corpus.min_letters * visible) | (repeated > corpus.max_repeated_lines)
