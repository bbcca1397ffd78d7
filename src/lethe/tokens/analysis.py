"""Which vocabulary size serves the corpora: measured on held-out text."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lethe.files import sha256, write_json
from lethe.tokens.tokenizer import (
    TOKENIZER_VERSION,
    TokenizerConfig,
    parts,
    save_tokenizer,
    text_batches,
    tokenizer_folder,
    train,
    training_text,
    truncate,
)

HELD_OUT_BYTES = 8_000_000


def make_tokenizer(corpora: dict[str, Path], config: TokenizerConfig, storage: Path) -> Path:
    """Train the tokenizer, write it and then its `report.json`; returns their folder under `storage`.

    `corpora` maps names to folders of finished corpora. Raises UserError for a corpus without training text.
    """
    folder = tokenizer_folder(corpora, config, storage)
    largest = train(training_text(corpora, config.sample_bytes), config.sizes[-1])
    save_tokenizer(truncate(largest, config.vocab_size), folder / "tokenizer.json")
    report = {
        "version": TOKENIZER_VERSION,
        "config": config.model_dump(),
        "corpora": {name: corpus.name for name, corpus in sorted(corpora.items())},
        "tokenizer_sha256": sha256(folder / "tokenizer.json"),
        "analysis": analyse(largest, config.sizes, corpora),
    }
    write_json(folder / "report.json", report)
    write_json(folder.parent / f"bpe{config.vocab_size}.json", {"folder": folder.name})
    return folder


def analyse(tokenizer: Tokenizer, sizes: list[int], corpora: dict[str, Path]) -> list[dict[str, Any]]:
    """One row per size and corpus (folders of finished corpora), on at most 8 MB of its `val` split.

    The fields: `candidate` (the size asked for), `vocab_size` (the size it came to), `corpus`, and, each null where
    the text has nothing to measure it on:

    - `coverage`: share of the running words that are a single token. A word is a piece of the tokenizer's split that
      consists of letters alone, but for its leading space;
    - `bytes_per_token`: UTF-8 bytes of all text per token;
    - `fertility`: tokens per running word (Rust et al. 2021, "How Good is Your Tokenizer?", section 3.1), at least 1;
    - `used`: share of the vocabulary that occurs in the text.

    `tokenizer` was trained at the largest size. BPE vocabularies are nested, so the smaller ones are cut out of it.
    """
    pieces = {name: count_pieces(tokenizer, _held_out(folder)) for name, folder in sorted(corpora.items())}
    rows = []
    for size in sizes:
        smaller = truncate(tokenizer, size)
        for corpus, counts in pieces.items():
            vocab_size = smaller.get_vocab_size()
            rows.append({"candidate": size, "vocab_size": vocab_size, "corpus": corpus, **measure(smaller, counts)})
    return rows


def _held_out(folder: Path) -> Iterator[str]:
    size = 0
    for part in parts(folder, "val"):
        for batch in text_batches(part):
            for document in filter(None, batch.to_pylist()):
                if size >= HELD_OUT_BYTES:
                    return
                size += len(document.encode())
                yield document


def count_pieces(tokenizer: Tokenizer, documents: Iterable[str]) -> Counter[str]:
    """How often each piece of the tokenizer's split occurs, pieces in the byte alphabet (a character a byte)."""
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    return Counter(piece for document in documents for piece, _ in split(document))


def measure(tokenizer: Tokenizer, pieces: Counter[str]) -> dict[str, float | None]:
    """Coverage, bytes per token, fertility and share of the vocabulary used, as `analyse` defines them."""
    words = single = tokens_of_words = tokens = 0
    used: set[int] = set()
    for piece, count in pieces.items():
        ids = [token.id for token in tokenizer.model.tokenize(piece)]
        used.update(ids)
        tokens += count * len(ids)
        if tokenizer.decoder.decode([piece]).removeprefix(" ").isalpha():
            words += count
            tokens_of_words += count * len(ids)
            single += count * (len(ids) == 1)
    size = sum(len(piece) * count for piece, count in pieces.items())
    return {
        "coverage": single / words if words else None,
        "bytes_per_token": size / tokens if tokens else None,
        "fertility": tokens_of_words / words if words else None,
        "used": len(used) / tokenizer.get_vocab_size() if tokens else None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of `analyse` as aligned text, under a line of headings."""
    head = ["candidate", "vocabulary", "corpus", "coverage", "bytes/token", "tokens/word", "used"]
    body = [
        [
            f"{row['candidate']:,}",
            f"{row['vocab_size']:,}",
            row["corpus"],
            *(_number(row[name], form) for name, form in _FORMS.items()),
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *body)
    )


_FORMS = {"coverage": ".1%", "bytes_per_token": ".2f", "fertility": ".3f", "used": ".1%"}


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
