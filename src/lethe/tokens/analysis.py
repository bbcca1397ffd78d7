"""Which vocabulary size serves the corpora: measured on text that the tokenizer was not trained on."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lethe.files import sha256, write_json
from lethe.tokens.report import recommend, write_report
from lethe.tokens.tokenizer import (
    TOKENIZER_VERSION,
    TokenizerConfig,
    is_held_out,
    pages,
    save_tokenizer,
    tokenizer_folder,
    train,
    training_text,
    truncate,
)

HELD_OUT_BYTES = 8_000_000
RARE = 10  # occurrences; fewer are too few to learn an embedding from, and to measure anything on


def make_tokenizer(corpora: dict[str, Path], config: TokenizerConfig, storage: Path) -> Path:
    """Train the tokenizer, write it and then its report (`lethe.tokens.report`); returns their folder.

    `corpora` maps names to folders of finished corpora. Raises UserError for a corpus without training text.
    """
    folder = tokenizer_folder(corpora, config, storage)
    largest = train(training_text(corpora, config.sample_bytes), config.sizes[-1])
    save_tokenizer(truncate(largest, config.vocab_size), folder / "tokenizer.json")
    rows = analyse(largest, config.sizes, corpora)
    report = {
        "version": TOKENIZER_VERSION,
        "config": config.model_dump(),
        "corpora": {name: corpus.name for name, corpus in sorted(corpora.items())},
        "tokenizer_sha256": sha256(folder / "tokenizer.json"),
        "analysis": rows,
        "recommendation": recommend(rows),
        "models": {},
    }
    write_report(folder, report)
    write_json(folder.parent / f"bpe{config.vocab_size}.json", {"folder": folder.name})
    return folder


def analyse(tokenizer: Tokenizer, sizes: list[int], corpora: dict[str, Path]) -> list[dict[str, Any]]:
    """One row per size and corpus (folders of finished corpora).

    The fields: `candidate` (the size asked for), `vocab_size` (the size it came to), `corpus`, what `measure` gives
    on the first 8 MB, to the end of a page, of the train split's pages that the tokenizer's training left out
    (`is_held_out`), and under `val` what it gives on as much of the val split. The first are pages of sites that the
    tokenizer knows, as are those a model trains on; the pages of val come from other sites, where whole sites can be
    held out.

    `tokenizer` was trained at the largest size. BPE vocabularies are nested, so the smaller ones are cut out of it.
    """
    pieces = {
        corpus: [count_pieces(tokenizer, _first(text)) for text in (_left_out(folder), pages(folder, "val"))]
        for corpus, folder in sorted(corpora.items())
    }
    rows = []
    for size in sizes:
        smaller = truncate(tokenizer, size)
        for corpus, (left_out, val) in pieces.items():
            row = {"candidate": size, "vocab_size": smaller.get_vocab_size(), "corpus": corpus}
            rows.append({**row, **measure(smaller, left_out), "val": measure(smaller, val)})
    return rows


def _left_out(folder: Path) -> Iterator[bytes]:
    return filter(is_held_out, pages(folder, "train"))


def _first(text: Iterator[bytes]) -> Iterator[str]:
    """Pages until they hold HELD_OUT_BYTES."""
    size = 0
    for page in text:
        if size >= HELD_OUT_BYTES:
            return
        size += len(page)
        yield page.decode()


def count_pieces(tokenizer: Tokenizer, documents: Iterable[str]) -> Counter[str]:
    """How often each piece of the tokenizer's split occurs, pieces in the byte alphabet (a character a byte)."""
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    return Counter(piece for document in documents for piece, _ in split(document))


def measure(tokenizer: Tokenizer, pieces: Counter[str]) -> dict[str, float | None]:
    """What a vocabulary makes of a text, counted as `count_pieces` does; null where there is nothing to measure it on.

    - `coverage`: share of the running words that are a single token. A word is a piece of the tokenizer's split that
      consists of letters alone, but for its leading space;
    - `bytes_per_token`: UTF-8 bytes of all text per token;
    - `fertility`: tokens per running word (Rust et al. 2021, "How Good is Your Tokenizer?", section 3.1), at least 1;
    - `used`: share of the vocabulary that occurs in the text;
    - `rare`: share of the vocabulary that occurs fewer than 10 times in it, or not at all;
    - `tokens`: how many tokens the text is, which `used` and `rare` depend on.
    """
    words = single = tokens_of_words = 0
    seen: Counter[int] = Counter()
    for piece, count in pieces.items():
        ids = [token.id for token in tokenizer.model.tokenize(piece)]
        for i in ids:
            seen[i] += count
        if tokenizer.decoder.decode([piece]).removeprefix(" ").isalpha():
            words += count
            tokens_of_words += count * len(ids)
            single += count * (len(ids) == 1)
    tokens, vocab_size = seen.total(), tokenizer.get_vocab_size()
    often = sum(count >= RARE for count in seen.values())
    size = sum(len(piece) * count for piece, count in pieces.items())
    return {
        "coverage": single / words if words else None,
        "bytes_per_token": size / tokens if tokens else None,
        "fertility": tokens_of_words / words if words else None,
        "used": len(seen) / vocab_size if tokens else None,
        "rare": 1 - often / vocab_size if tokens else None,
        "tokens": tokens,
    }
