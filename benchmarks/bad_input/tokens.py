"""Cases 85 to 93 and 101: tokenizers and token shards that are not as a program of ours writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.bad_input.case import Case, Done, Room, listing
from benchmarks.bad_input.grids import Make, on_the_lab
from benchmarks.bad_input.lab import ON_TOKENS, TRAIN
from lethe.files import sha256

Change = Callable[[dict[str, Any]], Any]


def tokenizer_file(room: Room) -> Path:
    (path,) = (room.storage / "data" / "tokenizers").glob("bpe512-*/tokenizer.json")
    return path


def tokenizer(change: Callable[[Path], Any]) -> Make:
    """A tokenizer that was changed together with the report that holds its fingerprint."""

    def make(room: Room) -> list[str]:
        command = on_the_lab(program="ray_jobs.tokenize")(room)
        path = tokenizer_file(room)
        change(path)
        report = path.with_name("report.json")
        report.write_text(json.dumps(json.loads(report.read_text()) | {"tokenizer_sha256": sha256(path)}))
        return command

    return make


def edited(change: Change) -> Callable[[Path], Any]:
    """Changes what a JSON file holds."""

    def edit(path: Path) -> None:
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return edit


def put(*path: str | int, to: Any) -> Change:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


def without_eos(data: dict[str, Any]) -> None:
    vocab = data["model"]["vocab"]
    vocab["<end>"] = vocab.pop("<eos>")


def gap(data: dict[str, Any]) -> None:
    vocab = data["model"]["vocab"]
    vocab[max(vocab, key=vocab.get)] = 1000


def swapped_merges(data: dict[str, Any]) -> None:
    merges = data["model"]["merges"]
    merges[-1], merges[-2] = merges[-2:]


def swapped(program: str) -> Make:
    """A tokenizer that is one, but not that of the shards."""

    def make(room: Room) -> list[str]:
        command = on_the_lab(program=program)(room)
        edited(swapped_merges)(tokenizer_file(room))
        if program == "lethe.train":
            command = [program, str(room.write("train.yaml", yaml.safe_dump(ON_TOKENS))), f"storage={room.storage}"]
        return command

    return make


def shards(spoil: Callable[[Path], Any]) -> Make:
    """A training on documents whose shards were spoilt since."""
    return _training("bpe400-*/other", spoil, TRAIN)


def spoilt_and_given(spoil: Callable[[Path], Any]) -> Make:
    """A training on shards that are named: whoever names them must make them again."""
    return _training("bpe512-*/food", spoil, ON_TOKENS)


def _training(corpus: str, spoil: Callable[[Path], Any], config: dict[str, Any]) -> Make:
    def make(room: Room) -> list[str]:
        room.prepared()
        (folder,) = (room.storage / "data" / "tokens").glob(corpus)
        spoil(folder)
        return ["lethe.train", str(room.write("train.yaml", yaml.safe_dump(config))), f"storage={room.storage}"]

    return make


def cut(folder: Path) -> None:
    path = folder / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-1])


def ids(value: int) -> Callable[[Path], Any]:
    """The ends of the first documents are another id."""

    def spoil(folder: Path) -> None:
        path = folder / "train-00000.bin"
        found = np.fromfile(path, "<u2")
        found[np.flatnonzero(found == 0)[:50]] = value
        found.tofile(path)

    return spoil


def meta(change: Change) -> Callable[[Path], Any]:
    return lambda folder: edited(change)(folder / "meta.json")


def as_before(room: Room, done: Done) -> None:
    """The shards are, byte for byte, those of the lab."""
    tokens = Path("data") / "tokens"
    found, wanted = listing(room.storage / tokens), listing(room.lab.storage / tokens)
    differ = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    assert not differ, f"not built again: {', '.join(differ)}"


REMADE = ("data/tokens/*/other/*",)
FIXED = {"type": "FixedLength", "length": 0}
BACKTRACKING = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
TOKENIZERS: list[tuple[int, str, Callable[[Path], Any], str]] = [
    (85, "empty", lambda path: path.write_text(""), "not valid JSON"),
    (85, "cut", lambda path: path.write_text(path.read_text()[:500]), "not valid JSON"),
    (86, "a merge longer than any token", edited(put("model", "merges", 0, to=["a", "b" * 99])), "model.merges[0]"),
    (87, "FixedLength 0", edited(put("pre_tokenizer", to=FIXED)), "pre_tokenizer: found"),
    (88, "a regex that backtracks", edited(put("pre_tokenizer", to=BACKTRACKING)), "pre_tokenizer: found"),
    (89, "unknown component", edited(put("post_processor", to={"type": "NoSuch"})), "post_processor: found"),
    (90, "an id twice", edited(put("model", "vocab", "!", to=2)), "model.vocab: the ids are not exactly 0 to"),
    (90, "a gap between ids", edited(gap), "model.vocab: the ids are not exactly 0 to"),
    (90, "an id of 4e9", edited(put("model", "vocab", "!", to=4_000_000_000)), "the ids are not exactly 0 to"),
    (91, "no <eos>", edited(without_eos), "found id None for <eos>"),
    (92, "a normaliser that loses text", edited(put("normalizer", to={"type": "Lowercase"})), "normalizer: found"),
]
SHARDS: list[tuple[str, Callable[[Path], Any]]] = [
    ("odd number of bytes", cut),
    ("ids beyond the vocabulary", ids(60_000)),
    ("ends of documents that are none", ids(5)),
    ("no meta.json", lambda folder: (folder / "meta.json").unlink()),
    ("meta.json cut", lambda folder: (folder / "meta.json").write_text('{"version": 1')),
    ("meta.json of another dtype", meta(put("dtype", to="uint32"))),
    ("meta.json of other lengths", meta(put("splits", "train", "tokens", to=7))),
    ("meta.json of another tokenizer", meta(put("tokenizer_sha256", to="0" * 64))),
]
CASES = [
    *(
        Case(number, f"tokenizer: {name}", "E", tokenizer(change), ("tokenizer.json: not a tokenizer", says))
        for number, name, change, says in TOKENIZERS
    ),
    Case(93, "another tokenizer than its report's", "E", swapped("ray_jobs.tokenize"), "not the tokenizer its report"),
    Case(93, "another tokenizer than the shards'", "E", swapped("lethe.train"), "does not match the shards"),
    *(Case(101, f"shards: {name}", "B", shards(spoil), "stage ", as_before, REMADE) for name, spoil in SHARDS),
    Case(101, "named shards: ids beyond", "E", spoilt_and_given(ids(60_000)), ("train-00000.bin", "found")),
    Case(101, "named shards: other ids", "E", spoilt_and_given(ids(5)), ("train-00000.bin", "found")),
    Case(101, "named shards: cut", "E", spoilt_and_given(cut), ("train-00000.bin: found", "bytes; allowed: ")),
]
