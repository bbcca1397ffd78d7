"""Cases 94 to 100: checkpoints of a stage in training, finished stages, and what is offered in their place."""

import json
import shutil
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bad_input import weights
from benchmarks.bad_input.case import Case, Done, Room
from benchmarks.bad_input.grids import Make
from benchmarks.bad_input.lab import TRAIN
from benchmarks.bad_input.weights import Spoil
from lethe.files import fingerprint, sha256


def going_on(spoil: Spoil) -> Make:
    """A training that was killed, whose newest checkpoint (a folder) was spoilt since."""

    def make(room: Room) -> list[str]:
        command = trained_again(shutil.rmtree)(room)
        partial = room.storage / "runs" / "stages" / room.lab.stage / "partial"
        shutil.copytree(room.lab.partial, partial)
        spoil(sorted(partial.iterdir())[-1])
        return command

    return make


def trained_again(spoil: Spoil) -> Make:
    """A training of a stage that is finished, whose folder was spoilt since."""

    def make(room: Room) -> list[str]:
        room.prepared()
        spoil(room.storage / "runs" / "stages" / room.lab.stage)
        return ["lethe.train", str(room.write("train.yaml", yaml.safe_dump(TRAIN))), f"storage={room.storage}"]

    return make


def of_weights(spoil: Spoil) -> Spoil:
    return lambda folder: spoil(folder / "model.safetensors")


def another_key(folder: Path) -> None:
    """The state of another stage, whole in itself."""
    path = folder / "state.json"
    record = json.loads(path.read_text()) | {"key": "0123456789abcdef"}
    del record["fingerprint"]
    path.write_text(json.dumps(record | {"fingerprint": fingerprint(record)}))


def record(content: str | None = None, cut: int | None = None) -> Spoil:
    """Another stage.json, or the beginning of it."""

    def spoil(folder: Path) -> None:
        path = folder / "stage.json"
        path.write_text(path.read_text()[:cut] if content is None else content)

    return spoil


def as_undisturbed(room: Room, done: Done) -> None:
    """The weights are those of the training that was not disturbed."""
    path = Path("runs") / "stages" / room.lab.stage / "stage.json"
    found, wanted = (json.loads((root / path).read_text())["files"] for root in (room.storage, room.lab.storage))
    assert found == wanted, "the weights are others"


def opened(spoil: Callable[[Room, Path], Any], program: str = "lethe.validate", matching: bool = False) -> Make:
    """A look at a finished stage whose folder was spoilt; `matching`, its record knows the weights as they are."""

    def make(room: Room) -> list[str]:
        room.prepared()
        folder = room.storage / "runs" / "stages" / room.lab.stage
        spoil(room, folder)
        if matching:
            path = folder / "stage.json"
            files = {"files": {"model.safetensors": sha256(folder / "model.safetensors")}}
            path.write_text(json.dumps(json.loads(path.read_text()) | files))
        out = ["--out", str(room.folder / "out")] if program == "lethe.export" else []
        return [program, "--checkpoint", str(folder), *out]

    return make


def spoilt(spoil: Spoil, **options: Any) -> Make:
    return opened(lambda room, folder: of_weights(spoil)(folder), **options)


def a_pickle(room: Room, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(weights.pickle(room.canary))


def nowhere_to_write(room: Room) -> list[str]:
    command = opened(lambda room, folder: None, program="lethe.export")(room)
    return [*command[:-1], "/proc/no-mount/out"]


def offered(name: str, content: Callable[[Room], bytes]) -> Make:
    """A file of another kind in place of a stage."""
    return lambda room: ["lethe.validate", "--checkpoint", str(room.write(name, content(room)))]


def archive(room: Room) -> bytes:
    """A member that would be the canary, were it unpacked where it lies."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        member = tarfile.TarInfo("../" * 8 + str(room.canary).lstrip("/"))
        member.size = 3
        file.addfile(member, BytesIO(b"out"))
    return buffer.getvalue()


PARTIAL = ("runs/stages/*/partial/*",)
STAGE = ("runs/stages/*",)
REFUSED = ("checkpoint ", "refused: ", "step 80/80")
ALTERED = ("model.safetensors: sha256: found", "the file was altered")
UNREADABLE = ("model.safetensors: ", "found")
FINISHED = "allowed: the folder of a finished stage"
CASES = [
    Case(53, "an export to a mount that is not there", "E", nowhere_to_write, "/proc/no-mount/out: cannot be written"),
    *(
        Case(94, f"checkpoint: {name}", "P", going_on(of_weights(spoil)), REFUSED, as_undisturbed, PARTIAL)
        for name, spoil in weights.CHANGES.items()
    ),
    Case(95, "checkpoint: a bit", "P", going_on(of_weights(weights.flipped)), REFUSED, as_undisturbed, PARTIAL),
    Case(97, "checkpoint of another stage", "P", going_on(another_key), REFUSED, as_undisturbed, PARTIAL),
    *(
        Case(94, f"stage: {name}, and its record knows", "E", spoilt(spoil, matching=True), UNREADABLE)
        for name, spoil in weights.CHANGES.items()
    ),
    Case(94, "stage: cut, exported", "E", spoilt(weights.cut, program="lethe.export"), ALTERED),
    Case(95, "stage: a bit", "E", spoilt(weights.flipped), ALTERED),
    Case(96, "stage.json cut", "B", trained_again(record(cut=100)), "step 80/80", as_undisturbed, STAGE),
    Case(96, "stage.json empty", "B", trained_again(record("")), "step 80/80", as_undisturbed, STAGE),
    Case(96, "stage.json of something else", "B", trained_again(record("[]")), "step 80/80", as_undisturbed, STAGE),
    Case(96, "stage.json that lacks all", "B", trained_again(record("{}")), "step 80/80", as_undisturbed, STAGE),
    Case(98, "a pickle offered", "E", offered("model.pt", lambda room: weights.pickle(room.canary)), FINISHED),
    Case(98, "a pickle for weights", "E", opened(a_pickle), ALTERED),
    Case(98, "a pickle for weights, and its record knows", "E", opened(a_pickle, matching=True), UNREADABLE),
    Case(99, "weights that are no numbers", "E", spoilt(weights.no_numbers, matching=True), UNREADABLE),
    Case(99, "the same, exported", "E", spoilt(weights.no_numbers, matching=True, program="lethe.export"), UNREADABLE),
    Case(100, "an archive offered", "E", offered("stage.tar", archive), FINISHED),
]
