"""What a file of a data set can be, in place of documents: the numbers are those of like things in Parquet files."""

import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from benchmarks.bad_input.case import Case, Done, Room
from benchmarks.bad_input.grids import Make
from benchmarks.bad_input.lab import TRAIN, documents, write_lines

WITH_EOS = [f"{text[:40]}<eos>{text[40:]} <eos>" for text in documents(40)]


def reading(path: str, spoil: Callable[[Room], Any], text: str = "text") -> Make:
    """A training on the documents of a file, which makes corpus, tokenizer and shards first, without Ray."""

    def make(room: Room) -> list[str]:
        spoil(room)
        corpora = {"other": {"dataset": {"path": path, "text": text}}}
        config = room.write("train.yaml", yaml.safe_dump(TRAIN | {"corpora": corpora}))
        return ["lethe.train", str(config), f"storage={room.storage}"]

    return make


def holding(content: bytes, name: str = "spoilt.jsonl") -> Make:
    return reading(name, lambda room: (room.storage / name).write_bytes(content))


def rows(values: list[Any], text: str = "text") -> Make:
    return reading("spoilt.jsonl", lambda room: write_lines(room.storage / "spoilt.jsonl", values), text)


def texts(values: list[Any]) -> list[dict[str, Any]]:
    return [{"text": value} for value in values]


def archive(name: str) -> Callable[[Room], None]:
    """A member that would lie beside the storage, were it unpacked there."""

    def spoil(room: Room) -> None:
        path = room.storage / name
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("../canary", '{"text": "out"}\n')

    return spoil


def script(room: Room) -> None:
    """A data set's own loading script, as the library used to run."""
    (room.storage / "script").mkdir()
    (room.storage / "script" / "script.py").write_text(f"open({str(room.canary)!r}, 'w')\n")


def only_good_counted(room: Room, done: Done) -> None:
    (manifest,) = (room.storage / "data" / "corpora").glob("other-*/manifest.json")
    rejects = json.loads(manifest.read_text())["rejects"]
    found = {reason: rejects.get(reason) for reason in ("no_text", "bad_utf8")}  # and some that are alike
    assert found == {"no_text": 3, "bad_utf8": 1}, f"rejected: {found}"


def no_eos_from_text(room: Room, done: Done) -> None:
    """As many ends as documents in every shard, although the documents hold the characters of one."""
    only_good_counted(room, done)
    (meta,) = (room.storage / "data" / "tokens").glob("*/other/meta.json")
    for split in json.loads(meta.read_text())["splits"].values():
        ids = np.concatenate([np.fromfile(meta.parent / shard["name"], "<u2") for shard in split["shards"]])
        assert np.count_nonzero(ids == 0) == split["documents"], "text became the end of a document"


MIXED = "".join(json.dumps(row) + "\n" for row in texts([*documents(160), *WITH_EOS, None, "", None])).encode()
MIXED += b'{"text": "caf\xe9"}\n'
FEW = texts(documents(20))
CASES = [
    Case(59, "an empty JSONL", "E", holding(b""), ("dataset.path: found 'spoilt.jsonl'", "it is empty")),
    Case(60, "a cut JSONL", "E", holding(b'{"text": "a"}\n{"text": "cu'), "dataset.path: found 'spoilt.jsonl'"),
    Case(61, "an error page for JSONL", "E", holding(b"<html>Not found</html>"), "dataset.path: found 'spoilt.jsonl'"),
    Case(61, "an error page for Parquet", "E", holding(b"<html>Not", "spoilt.parquet"), "dataset.path: found"),
    Case(65, "no such file", "E", reading("none.jsonl", lambda room: None), "found 'none.jsonl', which is not there"),
    Case(67, "no text column", "E", rows(FEW, "story"), ("dataset.text: found 'story'", "allowed: a column: text")),
    Case(68, "text is a number", "E", rows(texts([*range(30)])), "dataset.text: found 'text' of type int64"),
    Case(
        70,
        "every document empty",
        "E",
        rows(texts([""] * 30)),
        ("corpus other: found 0 documents", "no_text 30"),
        remade=("data/corpora/units-*",),
    ),
    Case((72, 73, 74, 84), "null, empty, broken, <eos>", "W", holding(MIXED), "step 80/80", no_eos_from_text),
    Case(83, "a data set with a script", "E", reading("script", script), "dataset.path: found 'script'"),
    Case(98, "a pickle for a data set", "E", holding(b"cos\nmkdir\n(Vx\ntR.", "rows.pkl"), "found files of .pkl"),
    Case(100, "an archive for a data set", "E", reading("rows.zip", archive("rows.zip")), "found files of .zip"),
    Case(100, "an archive in a folder", "E", reading("folder", archive("folder/rows.zip")), "dataset.path: found"),
]
