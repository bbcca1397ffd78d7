"""Token shards: the encoded documents of a corpus as flat files of ids, written once and read by memory map.

`data/tokens/FOLDER/CORPUS/{train,val}-00000.bin` hold little-endian uint16 or uint32 ids, every document followed by
`<eos>`; `meta.json`, written last, says what they must be.
"""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from lethe.config import UserError
from lethe.corpora.parquet import read_manifest
from lethe.files import fingerprint, sha256, whole, write_json
from lethe.tokens.encode import Difference, DisagreementError, Fast, reference
from lethe.tokens.meta import (
    SHARDS_VERSION,
    SPLITS,
    Counts,
    Meta,
    Shard,
    Split,
    check_bytes,
    check_content,
    check_shards,
    check_size,
    check_sums,
    read_meta,
)
from lethe.tokens.tokenizer import (
    EOS_ID,
    TokenizerConfig,
    byte_lengths,
    finished_tokenizer,
    load_tokenizer,
    model_vocab,
    parts,
    text_batches,
)

SHARD_TOKENS = 100_000_000
PARTIAL = ".partial"  # in a tokens folder, while it is made: the encoded parts


def tokens_folder(corpora: dict[str, Path], config: TokenizerConfig, storage: Path) -> Path | None:
    """Where the shards of these corpora lie or will lie; None while their tokenizer is not made.

    `corpora` maps names to folders of finished corpora. Raises UserError for a tokenizer that was altered.
    """
    tokenizer = finished_tokenizer(corpora, config, storage)
    if tokenizer is None:
        return None
    identity = {
        "version": SHARDS_VERSION,
        "tokenizer": sha256(tokenizer / "tokenizer.json"),
        "corpora": {name: folder.name for name, folder in corpora.items()},
    }
    return storage / "data" / "tokens" / f"bpe{config.vocab_size}-{fingerprint(identity, 8)}"


def is_finished(root: Path, corpora: dict[str, Path]) -> bool:
    """Whether the shards of all these corpora are there, as their `meta.json` says."""
    try:
        found = TokenData(root).corpora
        check_shards(root)
    except UserError:
        return False
    return found == sorted(corpora)


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    """Little-endian, of two bytes where every id fits, else of four."""
    return np.dtype("<u2" if tokenizer.get_vocab_size() <= 1 << 16 else "<u4")


def encode_part(part: Path, tokenizer: Tokenizer, path: Path, fast: Fast | None = None) -> str | None:
    """Encode one Parquet part of a corpus into `path`, flat ids; its `Counts` go to `path`.json, written last.

    The bytes are the same with and without `fast`: where it disagrees with the tokenizer on a document that is
    checked, the whole part is encoded by the tokenizer, and a line that says so is returned.
    """
    try:
        counts, note = _encode_part(part, tokenizer, path, fast), None
    except DisagreementError as error:
        assert fast is not None
        note = f"{part}: encoded with tokenizers: {fast.name} gives other ids on {_place(part, error.difference)}"
        counts = _encode_part(part, tokenizer, path, None)
    write_json(path.with_suffix(".json"), counts.model_dump())
    return note


def _encode_part(part: Path, tokenizer: Tokenizer, path: Path, fast: Fast | None) -> Counts:
    documents = tokens = size = row = 0
    dtype = token_dtype(tokenizer)
    with whole(path) as temporary, temporary.open("wb") as file:
        for batch in text_batches(part):
            texts = [text or "" for text in batch.to_pylist()]
            encoded = fast.encode_checked(texts, part.name, row) if fast else reference(tokenizer, texts)
            kept = [ids for ids in encoded if len(ids)]
            ids = _with_ends(kept, dtype)
            file.write(ids.data)
            documents, tokens = documents + len(kept), tokens + len(ids)
            size += pc.sum(pc.binary_length(batch)).as_py() or 0
            row += len(texts)
    return Counts(documents=documents, tokens=tokens, bytes=size)


def _with_ends(documents: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The ids of documents, each followed by `<eos>`: `dtype` [tokens]."""
    end = np.full(1, EOS_ID, np.uint32)
    result = np.concatenate([end[:0], *(piece for ids in documents for piece in (ids, end))]).astype(dtype)
    if np.count_nonzero(result == EOS_ID) != len(documents):
        raise RuntimeError("a document holds <eos>: the tokenizer did not come from load_tokenizer")
    return result


def _place(part: Path, difference: Difference) -> str:
    """The document of a part as people find it: by its id, or by its row where there are no ids."""
    row, where = difference.document, f"from byte {difference.byte:,} of its text on"
    if "id" not in pq.read_schema(part).names:
        return f"row {row:,}, {where}"
    return f"row {row:,}, {pq.read_table(part, columns=['id'])['id'][row]}, {where}"


def encoded_path(root: Path, corpus: str, split: str, part: Path) -> Path:
    """Where an encoded part waits in the tokens folder `root` to be joined."""
    return root / PARTIAL / corpus / split / f"{part.stem}.bin"


def is_encoded(path: Path, dtype: np.dtype) -> bool:
    """Whether `encode_part` has finished `path`."""
    try:
        counts = Counts.model_validate_json(path.with_suffix(".json").read_bytes())
        return path.stat().st_size == counts.tokens * dtype.itemsize
    except (OSError, ValueError):
        return False


def is_joined(root: Path, corpus: str, tokenizer: Path) -> bool:
    """Whether the shards of a corpus, by the tokenizer in this folder, are as their `meta.json` says."""
    try:
        meta = read_meta(root / corpus)
        check_bytes(root / corpus, meta)
    except UserError:
        return False
    return meta.tokenizer == tokenizer.name and meta.tokenizer_sha256 == sha256(tokenizer / "tokenizer.json")


def join_parts(root: Path, corpus: str, folder: Path, tokenizer: Path) -> None:
    """Join the encoded parts of the corpus in `folder` into its shards under `root`, `meta.json` last.

    `tokenizer` is the tokenizer's folder. The parts must all have been encoded. Raises UserError where the shards do
    not hold as many tokens or `<eos>` as were encoded.
    """
    target, dtype = root / corpus, token_dtype(load_tokenizer(tokenizer / "tokenizer.json"))
    (target / "meta.json").unlink(missing_ok=True)
    for stale in target.glob("*.bin"):
        stale.unlink()
    splits = {}
    for split in SPLITS:
        encoded = [encoded_path(root, corpus, split, part) for part in parts(folder, split)]
        splits[split] = join_split(target, split, encoded, dtype)
    manifest = read_manifest(folder)
    assert manifest is not None, f"{folder} is not finished"
    meta = Meta.model_validate(
        {
            "version": SHARDS_VERSION,
            "dtype": dtype.newbyteorder("=").name,
            "tokenizer": tokenizer.name,
            "tokenizer_sha256": sha256(tokenizer / "tokenizer.json"),
            "corpus": folder.name,
            "corpus_fingerprint": manifest["fingerprint"],
            "splits": splits,
        }
    )
    write_json(target / "meta.json", meta.model_dump())


def join_split(folder: Path, split: str, encoded: list[Path], dtype: np.dtype, limit: int = SHARD_TOKENS) -> Split:
    """Join encoded parts, in order, into shards of at most `limit` tokens that end with a document.

    Only a document longer than the limit gets a longer shard, of its own.
    """
    counts = [Counts.model_validate_json(path.with_suffix(".json").read_bytes()) for path in encoded]
    arrays = (np.memmap(path, dtype, "r") for path in encoded if path.stat().st_size)
    result = Split(
        documents=sum(part.documents for part in counts),
        tokens=sum(part.tokens for part in counts),
        bytes=sum(part.bytes for part in counts),
        shards=[_write_shard(folder / f"{split}-{i:05}.bin", pieces) for i, pieces in enumerate(_cut(arrays, limit))],
    )
    check_sums(result, f"{folder}: {split}")
    return result


def _cut(arrays: Iterator[np.ndarray], limit: int) -> Iterator[list[np.ndarray]]:
    """The stream of ids as shards, each a list of pieces of whole documents."""
    pieces: list[np.ndarray] = []
    held = 0
    for array in arrays:
        ends, start = np.flatnonzero(array == EOS_ID) + 1, 0
        while start < len(array):
            fitting = np.searchsorted(ends, start + limit - held, side="right")
            end = int(ends[fitting - 1]) if fitting else 0
            if end <= start and pieces:
                yield pieces
                pieces, held = [], 0
                continue
            if end <= start:
                end = int(ends[fitting])
            pieces.append(array[start:end])
            start, held = end, held + end - start
    if pieces:
        yield pieces


def _write_shard(path: Path, pieces: list[np.ndarray]) -> Shard:
    digest = hashlib.sha256()
    with whole(path) as temporary, temporary.open("wb") as file:
        for piece in pieces:
            file.write(piece.data)
            digest.update(piece.data)
    return Shard(
        name=path.name,
        tokens=sum(len(piece) for piece in pieces),
        documents=sum(int(np.count_nonzero(piece == EOS_ID)) for piece in pieces),
        sha256=digest.hexdigest(),
    )


class TokenData:
    """All corpora of one `data/tokens/FOLDER`.

    Opening checks sizes and the tokenizer, not the content of the shards. Raises UserError for a folder that is not
    there or not finished, for a `meta.json` that disagrees with the files, and for a tokenizer that does not match.
    """

    root: Path
    tokenizer_path: Path
    tokenizer_fingerprint: str
    """sha256 of tokenizer.json."""
    vocab_size: int
    """Rows of a model's embedding (`model_vocab`)."""
    corpora: list[str]
    """Names, sorted."""
    byte_lengths: np.ndarray
    """int64 [vocab_size]: bytes of text that an id stands for, 0 for `<eos>` and padding."""

    def __init__(self, root: Path) -> None:
        folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        if not folders:
            raise UserError(f"{root}: found no token shards; run python -m ray_jobs.tokenize CONFIG")
        if root / PARTIAL in folders:
            raise UserError(f"{root}: not finished; run python -m ray_jobs.tokenize CONFIG again")
        self.root = root
        self._metas = {folder.name: read_meta(folder) for folder in folders}
        self.corpora = sorted(self._metas)
        first = self._metas[self.corpora[0]]
        self.tokenizer_path = root.parent.parent / "tokenizers" / first.tokenizer / "tokenizer.json"
        tokenizer = load_tokenizer(self.tokenizer_path)
        self.tokenizer_fingerprint = sha256(self.tokenizer_path)
        self.vocab_size = model_vocab(tokenizer)
        self.byte_lengths = np.pad(byte_lengths(tokenizer), (0, self.vocab_size - tokenizer.get_vocab_size()))
        for corpus, meta in self._metas.items():
            if meta.tokenizer_sha256 != self.tokenizer_fingerprint or meta.ids != token_dtype(tokenizer):
                raise UserError(
                    f"{root / corpus}: {self.tokenizer_path} is a tokenizer that does not match the shards (sha256: "
                    f"found {self.tokenizer_fingerprint[:12]}...; allowed: {meta.tokenizer_sha256[:12]}...)"
                )

    def split(self, corpus: str, split: str) -> "TokenSplit":
        """The `train` or `val` split of a corpus; raises UserError for a corpus that is not here."""
        if corpus not in self._metas:
            raise UserError(f"{self.root}: found no corpus {corpus!r}; allowed: {', '.join(self.corpora)}")
        meta = self._metas[corpus]
        return TokenSplit(self.root / corpus, meta.splits[split], meta.ids)  # type: ignore[index]


class TokenSplit:
    """One split of a corpus as one stream of ids, memory-mapped over its shards."""

    def __init__(self, folder: Path, split: Split, dtype: np.dtype) -> None:
        self.tokens = split.tokens
        self.fingerprint = hashlib.sha256("".join(shard.sha256 for shard in split.shards).encode()).hexdigest()
        """sha256 over the sha256s of the shards, in order."""
        self._folder, self._split = folder, split
        self._ends = np.cumsum([shard.tokens for shard in split.shards], dtype=np.int64)
        self._dtype = dtype

    @cached_property
    def _shards(self) -> list[np.ndarray]:
        """The maps; UserError for a file that was cut or altered since the folder was opened, be it long ago."""
        for shard in self._split.shards:
            check_size(self._folder / shard.name, shard, self._dtype)
            check_content(self._folder / shard.name, shard)
        return [np.memmap(self._folder / shard.name, self._dtype, "r") for shard in self._split.shards]

    def windows(self, context: int) -> int:
        """How many windows of context + 1 tokens there are, consecutive ones sharing a token."""
        return max(0, (self.tokens - 1) // context)

    def read(self, indices: np.ndarray, context: int) -> np.ndarray:
        """The windows `indices` (int [n]) as int64 [n, context + 1].

        Window i covers tokens i * context to i * context + context, both included, so each token but the first is
        predicted once. Raises IndexError outside 0 to windows(context) - 1.
        """
        if len(indices) and not 0 <= np.min(indices) <= np.max(indices) < self.windows(context):
            raise IndexError(f"found windows {np.min(indices)} to {np.max(indices)} of {self.windows(context)}")
        rows = np.empty((len(indices), context + 1), dtype=np.int64)
        for row, index in zip(rows, indices, strict=True):
            self._fill(row, int(index) * context)
        return rows

    def _fill(self, row: np.ndarray, start: int) -> None:
        """Copy the stream from token `start` on into `row`, over as many shards as it takes."""
        filled, number = 0, int(np.searchsorted(self._ends, start, side="right"))
        while filled < len(row):
            shard = self._shards[number]
            offset = start + filled - (int(self._ends[number]) - len(shard))
            piece = shard[offset : offset + len(row) - filled]
            row[filled : filled + len(piece)] = piece
            filled, number = filled + len(piece), number + 1
