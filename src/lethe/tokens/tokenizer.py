"""A byte-level BPE over all corpora: how it is trained, kept and, refusing what is not ours, loaded."""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lethe.config import Config, UserError
from lethe.corpora.parquet import read_manifest
from lethe.files import fingerprint, sha256, write_json

TOKENIZER_VERSION = 2
EOS = "<eos>"
EOS_ID = 0
BYTE_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # the character that stands for each of the 256 bytes
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 320, 1_000_000
HELD_OUT_ONE_IN = 20

_BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
# Everything of a tokenizer.json but vocabulary and merges. Each part is fixed, for a normalizer or another splitter
# could lose text, and some parts take the library down with a panic that is no Exception.
_COMPONENTS: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {
            "id": EOS_ID,
            "content": EOS,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ],
    "normalizer": None,
    "pre_tokenizer": {**_BYTE_LEVEL, "add_prefix_space": False},
    "post_processor": None,
    "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
}
_MODEL: dict[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
# The trainer's time grows with the square of the longest unbroken run: 43 merges over 2 MB of DNA take minutes.
_LONG_RUN = re.compile(r"\S{1000,}|\s{1000,}")


Size = Annotated[int, Field(ge=SMALLEST_VOCABULARY, le=LARGEST_VOCABULARY)]


class TokenizerConfig(Config):
    """How the tokenizer of a grid is made."""

    vocab_size: Size = Field(32768, description="upper bound on the number of ids; above 65,536 a token takes 4 bytes")
    candidates: list[Size] = Field(
        [], description="sizes to compare with vocab_size; default: an eighth, a quarter, a half and twice it"
    )
    sample_bytes: PositiveInt = Field(200_000_000, description="text to train on, an equal share from each corpus")

    @property
    def sizes(self) -> list[int]:
        """Every size to analyse, ascending."""
        around = (self.vocab_size * 2 // divisor for divisor in (16, 8, 4, 1))
        candidates = self.candidates or [size for size in around if SMALLEST_VOCABULARY <= size <= LARGEST_VOCABULARY]
        return sorted({*candidates, self.vocab_size})


def tokenizer_folder(corpora: dict[str, Path], config: TokenizerConfig, storage: Path) -> Path:
    """Where the tokenizer of these corpora (names and their folders) lies or will lie."""
    identity = {
        "version": TOKENIZER_VERSION,
        "config": config.model_dump(),
        "corpora": {name: folder.name for name, folder in corpora.items()},
    }
    return storage / "data" / "tokenizers" / f"bpe{config.vocab_size}-{fingerprint(identity, 8)}"


def finished_tokenizer(corpora: dict[str, Path], config: TokenizerConfig, storage: Path) -> Path | None:
    """The folder of a tokenizer with its report, or None; raises UserError where one was altered."""
    folder = tokenizer_folder(corpora, config, storage)
    path = folder / "tokenizer.json"
    try:
        expected, found = json.loads((folder / "report.json").read_bytes())["tokenizer_sha256"], sha256(path)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if found != expected:
        raise UserError(
            f"{path}: not the tokenizer its report.json describes (sha256: found {found[:12]}...; allowed: "
            f"{expected[:12]}...); delete {folder} to train it again"
        )
    return folder


def parts(corpus: Path, split: str) -> list[Path]:
    """The Parquet files of a corpus folder's split, in order; raises UserError for an unfinished folder."""
    manifest = read_manifest(corpus)
    if manifest is None:
        raise UserError(f"{corpus}: not a finished corpus: no manifest.json that agrees with the files")
    return [corpus / name for name in sorted(manifest["files"]) if name.startswith(f"{split}/")]


def text_batches(part: Path) -> Iterator[pa.StringArray]:
    """The `text` column of one Parquet file, as string arrays of at most 1,000 rows and a row group."""
    with pq.ParquetFile(part) as file:
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(1000, row_groups=[group], columns=["text"], use_threads=False):
                yield batch.column(0)


def training_text(corpora: dict[str, Path], sample_bytes: int) -> Iterator[str]:
    """Training documents of all corpora, the same number of bytes from each, evenly spread over it.

    A corpus gives `sample_bytes / len(corpora)`, or what the smallest corpus has: a vocabulary that favours one
    corpus would bias the comparison of what a model loses on each. Left out are the pages that `is_held_out` names,
    and unbroken runs of 1,000 characters (no spaces, or nothing else). Raises UserError for a corpus without training
    text.
    """
    available = {name: sum(map(len, _sampled(folder))) for name, folder in sorted(corpora.items())}
    for name, size in available.items():
        if size == 0:
            raise UserError(f"{corpora[name]}: found no text in its train split; a tokenizer needs some of each corpus")
    quota = min(sample_bytes // len(corpora), *available.values())
    for name, size in available.items():
        seen = taken = 0
        for page in _sampled(corpora[name]):
            if taken * size <= seen * quota:
                taken += len(page)
                yield from filter(None, _LONG_RUN.split(page.decode()))
            seen += len(page)


def is_held_out(page: bytes) -> bool:
    """Whether the tokenizer's training leaves out a page of the train split, in UTF-8: one in 20, by its text alone."""
    return zlib.crc32(page) % HELD_OUT_ONE_IN == 0


def pages(corpus: Path, split: str) -> Iterator[bytes]:
    """The texts of a corpus folder's split that are not empty, in order, in UTF-8."""
    for part in parts(corpus, split):
        for batch in text_batches(part):
            yield from filter(None, batch.cast(pa.binary()).to_pylist())


def _sampled(corpus: Path) -> Iterator[bytes]:
    return (page for page in pages(corpus, "train") if not is_held_out(page))


def train(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE with `<eos>` as id 0, the 256 bytes as 1 to 256, then the merges in the order they were found.

    The text is split as GPT-2 does (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
    section 2.2), without a prefix space. The same texts give the same tokenizer, whatever the threads. On poor text
    training ends early, with fewer than `vocab_size` ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS], initial_alphabet=BYTE_ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _build(*_vocabulary(tokenizer))


def truncate(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """The tokenizer that training on the same text with a smaller `vocab_size` would have given.

    BPE is greedy: a smaller vocabulary is a prefix of a larger one, and its merges end with the one that made its
    last id.
    """
    vocab, merges = _vocabulary(tokenizer)
    if vocab_size >= len(vocab):
        return tokenizer
    last = next(i for i, (left, right) in enumerate(merges) if vocab[left + right] == vocab_size - 1)
    return _build({token: i for token, i in vocab.items() if i < vocab_size}, merges[: last + 1])


def _vocabulary(tokenizer: Tokenizer) -> tuple[dict[str, int], list[list[str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def _build(vocab: dict[str, int], merges: list[list[str]]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(_document(vocab, merges)))
    tokenizer.encode_special_tokens = True  # not kept in the JSON: without it `<eos>` in a page ends the document
    return tokenizer


def _document(vocab: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    return {**_COMPONENTS, "model": {**_MODEL, "vocab": vocab, "merges": merges}}


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`, the same bytes for the same tokenizer under any version of the library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, _document(*_vocabulary(tokenizer)))


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer kept at `path`; the only way to one that encodes text: it never makes text into `<eos>`.

    Raises UserError for a file that is missing, is not JSON, or is not as `save_tokenizer` writes it: other
    components, ids that are not exactly 0 to V - 1, a missing byte, a merge of what is not in the vocabulary.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a tokenizer: not valid JSON ({error})") from None
    problem = _problem(data)
    if problem:
        raise UserError(f"{path}: not a tokenizer of ours: {problem}")
    return _build(data["model"]["vocab"], data["model"]["merges"])  # the library sees nothing but what was checked


def _problem(data: Any) -> str | None:
    """What is wrong with the content of a tokenizer.json, or None."""
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        return "found no model; allowed: a byte-level BPE"
    model = data["model"]
    for where, found, allowed in (("", data, _COMPONENTS), ("model.", model, _MODEL)):
        for key in sorted({*found, *allowed} - {"model", "vocab", "merges"}):
            if key not in found or key not in allowed or found[key] != allowed[key]:
                return f"{where}{key}: found {str(found.get(key))[:80]}; allowed: {str(allowed.get(key))[:200]}"
    return _vocabulary_problem(model.get("vocab")) or _merges_problem(model["vocab"], model.get("merges"))


def _vocabulary_problem(vocab: Any) -> str | None:
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        return "model.vocab: allowed: a mapping of tokens to ids"
    if sorted(vocab.values()) != list(range(len(vocab))):
        return f"model.vocab: the ids are not exactly 0 to {len(vocab) - 1}"
    if vocab.get(EOS) != EOS_ID:
        return f"model.vocab: found id {vocab.get(EOS)} for {EOS}; allowed: {EOS_ID}"
    missing = sum(byte not in vocab for byte in BYTE_ALPHABET)
    if missing:
        return f"model.vocab: {missing} of the 256 bytes are missing, so text would be lost"
    if not set().union(*vocab.keys() - {EOS}) <= set(BYTE_ALPHABET) or "" in vocab:
        return "model.vocab: a token holds what stands for no byte"
    return None


def _merges_problem(vocab: dict[str, int], merges: Any) -> str | None:
    if not isinstance(merges, list):
        return "model.merges: allowed: a list of pairs of tokens"
    for number, pair in enumerate(merges):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(side, str) for side in pair)):
            return f"model.merges[{number}]: found {str(pair)[:80]}; allowed: a pair of tokens"
        if any(token not in vocab or token == EOS for token in (*pair, "".join(pair))):
            return (
                f"model.merges[{number}]: found {str(pair)[:80]}; allowed: tokens of the vocabulary that make another"
            )
    return None


def model_vocab(tokenizer: Tokenizer) -> int:
    """Rows of a model's embedding: the number of ids, rounded up to a multiple of 64.

    The rows above the tokenizer's own size are padding, for the speed of the matrix product: no text holds their ids,
    and they must never be sampled.
    """
    return padded(tokenizer.get_vocab_size())


def padded(vocab_size: int) -> int:
    """Rows of the embedding of a model for a tokenizer of this size."""
    return -(-vocab_size // 64) * 64


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """int64 [tokenizer's size]: bytes of text that each id stands for, 0 for `<eos>`.

    Exact, as every character of a token stands for one byte: over the ids of a text they add up to its UTF-8 length.
    """
    lengths = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, i in tokenizer.get_vocab().items():
        lengths[i] = 0 if i == EOS_ID else len(token)
    return lengths
