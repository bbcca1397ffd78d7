"""The stage store: finished stages under their keys, written whole or not at all, never changed afterwards.

KEY/model.safetensors            the weights
KEY/curves/FP.parquet|json       what was measured on the way; FP says what that is
KEY/optimizer.safetensors|json   the optimizer's state at the end, only where a later stage carries it on
KEY/stage.json                   the record, written last: a stage is finished when it is there
KEY/partial/STEP/                checkpoints while it trains, owned by whoever holds KEY.lock
KEY/diverged.json                why it cannot be trained: its loss was not a number, and would be none again
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from lethe.bucket import Bucket
from lethe.config import UserError
from lethe.files import sha256, whole, write_json

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
LATE = 60.0  # seconds; NFS looks again after so many at the latest, unless mounted otherwise
CURVE = pa.schema(
    [
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("name", pa.string()),
        ("value", pa.float64()),
    ]
)
SPENT = "spent/"
"""In a curve before the names of what was measured until the stage began anew."""


class StageStore:
    """A folder of finished stages, shared by all grids of a storage; with a bucket, this machine's copy of it.

    Unless it `asks`, what the bucket may have beyond the copy counts as not there; see `fetch`.
    """

    def __init__(self, root: Path, bucket: Bucket | None = None, asks: bool = True) -> None:
        self.root, self.bucket, self.asks = root, bucket, asks

    def here(self, path: Path) -> Path:
        """A path below `root`, its file got from the bucket where there is one and the file is not here yet."""
        if self.bucket and self.asks and not path.is_file():
            self.bucket.pull(path)
        return path

    def fetch(self) -> None:
        """Get from the bucket what is known of all stages: their records and curves, not their weights."""
        if self.bucket:
            self.bucket.pull(self.root, "stage.json", "diverged.json", "optimizer.json", "curves/*")

    def send(self, key: str) -> None:
        """Send the bucket, where there is one, what is here of a stage, and drop the checkpoints that are not."""
        if self.bucket:
            self.bucket.push(self.folder(key))
            self.bucket.push(self.folder(key) / "partial", exactly=True)

    def folder(self, key: str) -> Path:
        return self.root / key

    def record(self, key: str) -> dict[str, Any] | None:
        """The record of a finished stage, None where there is none; UserError if a newer version wrote it."""
        try:
            record = json.loads(self.here(self.folder(key) / "stage.json").read_text())
            if record["version"] <= VERSION and not isinstance(record["files"], dict):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if record["version"] > VERSION:
            raise UserError(
                f"{self.folder(key) / 'stage.json'}: version: found {record['version']}; allowed: up to {VERSION}"
            )
        whole = all((self.folder(key) / name).is_file() for name in record["files"])
        return record if whole or self.bucket else None  # in a bucket the record comes last

    def finished(self, key: str) -> dict[str, Any]:
        """The record of a finished stage; UserError where there is none."""
        if (record := self.record(key)) is None:
            raise UserError(f"{self.folder(key)}: not a finished stage (no whole stage.json there)")
        return record

    def curve(self, key: str, measured: str) -> pa.Table | None:
        """The stage's curve (schema CURVE) under the fingerprint of what was measured; None if it is not whole."""
        path = self.folder(key) / "curves" / f"{measured}.parquet"
        try:
            manifest = json.loads(self.here(path.with_suffix(".json")).read_text())
            return pq.read_table(path) if sha256(self.here(path)) == manifest["sha256"] else None
        except (OSError, ValueError):
            return None

    def curve_so_far(self, key: str, measured: str) -> pa.Table | None:
        """Of a stage in training, its curve up to its newest checkpoint, which no loss of a process can change."""
        partial = self.folder(key) / "partial"
        if self.bucket and self.asks:
            self.bucket.pull(partial, "state.json")
        state = next(states(partial), None)
        return _table(state["curve"]) if state and state["measured"] == measured else None

    def has(self, key: str, measured: str, optimizer: bool = False) -> bool:
        """Whether the stage is finished and was measured as wanted (and its optimizer state kept, if that is asked)."""
        finished = self.record(key) is not None and self.curve(key, measured) is not None
        return finished and (not optimizer or self.here(self.folder(key) / "optimizer.json").is_file())

    def await_finished(self, key: str, measured: str, optimizer: bool) -> None:
        """Wait a while for a stage that was finished elsewhere: a client of a network's file system sees it late."""
        until = time.monotonic() + LATE
        while not self.has(key, measured, optimizer) and time.monotonic() < until:
            time.sleep(0.5)

    def weights(self, key: str) -> "dict[str, Tensor]":
        """The tensors of a finished stage, their sha256 checked against the record; UserError if altered."""
        digest = self.finished(key)["files"]["model.safetensors"]
        return load_tensors(self.here(self.folder(key) / "model.safetensors"), digest)

    def optimizer(self, key: str) -> "dict[str, Tensor]":
        """The optimizer state in which a finished stage ended; UserError if it was not kept, or altered."""
        path = self.folder(key) / "optimizer.safetensors"
        try:
            digest = json.loads(self.here(path.with_suffix(".json")).read_text())["sha256"]
        except (OSError, ValueError, KeyError):
            raise UserError(
                f"{path}: not there; a stage whose optimizer state is carried on must be trained with keep_optimizer"
            ) from None
        return load_tensors(self.here(path), digest)

    @contextmanager
    def own(self, key: str) -> Iterator[None]:
        """Hold the stage's lock; whoever waits for it should then look whether the stage is finished."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f"{key}.lock"):
            yield

    def wait(self, key: str, seconds: float) -> bool:
        """Wait so long, at most, for whoever holds the stage's lock; whether nobody does."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f"{key}.lock", timeout=seconds):
                return True
        except Timeout:
            return False

    def finish(self, key: str, record: dict[str, Any], tensors: "dict[str, Tensor]") -> None:
        """Write weights and record. Where the stage is finished already, its weights must be these."""
        folder = self.folder(key)
        path, before = folder / "model.safetensors", self.record(key)
        if before is None:
            with whole(path) as temporary:
                files = {path.name: save_tensors(temporary, tensors)}
            write_json(folder / "stage.json", {"version": VERSION, "key": key, **record, "files": files})
        elif before["files"][path.name] != _digest(tensors):
            raise UserError(
                f"{folder}: trained again for another measurement, the stage ended with other weights than those "
                "stored; they stem from another processor, torch version or number of ranks or threads. Delete that "
                "folder to train it here"
            )
        shutil.rmtree(folder / "partial", ignore_errors=True)
        self.send(key)

    def give_up(self, key: str, reason: str) -> None:
        """Note that the stage diverged, and drop its checkpoints."""
        write_json(self.folder(key) / "diverged.json", {"reason": reason})
        shutil.rmtree(self.folder(key) / "partial", ignore_errors=True)
        self.send(key)

    def diverged(self, key: str) -> str | None:
        """Why the stage was given up; None where it was not, or has been finished since."""
        try:
            reason: str = json.loads(self.here(self.folder(key) / "diverged.json").read_text())["reason"]
        except (OSError, ValueError, KeyError):
            return None
        return None if self.record(key) else reason

    def write_optimizer(self, key: str, tensors: "dict[str, Tensor]") -> None:
        """Keep the optimizer state in which the stage ended; its manifest last."""
        path = self.folder(key) / "optimizer.safetensors"
        with whole(path) as temporary:
            digest = save_tensors(temporary, tensors)
        write_json(path.with_suffix(".json"), {"sha256": digest})

    def write_curve(self, key: str, measured: str, rows: list[tuple[Any, ...]]) -> None:
        """Write a curve, rows as in CURVE; its manifest last."""
        path = self.folder(key) / "curves" / f"{measured}.parquet"
        with whole(path) as temporary:
            pq.write_table(_table(rows), temporary)
        write_json(path.with_suffix(".json"), {"sha256": sha256(path)})


def states(partial: Path) -> Iterator[dict[str, Any]]:
    """The state.json of each checkpoint below `partial`, the newest first; one that is being replaced is left out."""
    for path in sorted(partial.glob("*/state.json"), reverse=True):
        with suppress(OSError, ValueError):
            yield json.loads(path.read_text())


def _table(rows: Iterable[Sequence[Any]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(CURVE.names, row, strict=True)) for row in rows], CURVE)


def save_tensors(path: Path, tensors: "dict[str, Tensor]") -> str:
    """Write a safetensors file and return its sha256."""
    from safetensors.torch import save_file

    save_file(_plain(tensors), path)
    return sha256(path)


def _digest(tensors: "dict[str, Tensor]") -> str:
    """The sha256 that `save_tensors` would return."""
    from safetensors.torch import save

    return hashlib.sha256(save(_plain(tensors))).hexdigest()


def _plain(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def load_tensors(path: Path, digest: str) -> "dict[str, Tensor]":
    """Read a safetensors file; UserError if its bytes are not those of `digest`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if (found := sha256(path)) != digest:
        raise UserError(f"{path}: sha256: found {found[:12]}..., allowed: {digest[:12]}...; the file was altered")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"{path}: found no safetensors file ({error}); allowed: weights as training writes them"
        ) from None
