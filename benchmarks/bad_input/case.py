"""A case of bad input, the room in which a program meets it, and whether the program did as it must."""

import hashlib
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bad_input.lab import Lab
from lethe.progress import say

ROOT = Path(__file__).parents[2]
AT_ONCE = 2
TIMEOUT = 300.0  # seconds, of a program
CANARY = "canary"  # a payload that is planted makes a file of this name in the room
MEMORY = 1_500_000_000  # bytes that a program may take, whatever it is given
CODES = {"E": 2, "R": 0, "B": 0, "P": 0, "W": 0, "T": 0}
# What stands in a message of ours, or of argparse's.
WORDS = ("found", "allowed", "cannot be", "not valid", "not UTF-8", "missing", "unrecognized arguments", "not a ")


@dataclass
class Room:
    """A case's own folder, with what its program is to be given beside its command line."""

    folder: Path
    lab: Lab
    environment: dict[str, str] = field(default_factory=dict)
    cwd: Path = Path()
    closed: bool = False
    """Whether nobody reads what the program prints."""
    stack: ExitStack = field(default_factory=ExitStack)
    """What is to be ended when the case has ended."""

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def canary(self) -> Path:
        return self.folder / CANARY

    def prepared(self) -> Path:
        """The storage as a copy of the lab's, in which corpora, tokens and stages lie already."""
        self.storage.rmdir()
        shutil.copytree(self.lab.storage, self.storage, symlinks=True)
        return self.storage

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


class Done(NamedTuple):
    """What a program did. `text` is all that it printed."""

    code: int
    text: str
    complaints: str
    seconds: float


class Case(NamedTuple):
    """A case by its numbers in the catalogue, and what it must lead to.

    E refused, R rejected and counted, B built again, P the one before taken, W accepted, T shown as text. `make` spoils
    something in a room and returns the program and its arguments. `says` must stand in what the program prints, and
    `check` raises AssertionError for what is not as it must be then. `remade` names (patterns, below the storage) what
    a program may replace, or, where it refuses what shows only when it has begun, may leave beside what was there.
    """

    numbers: int | tuple[int, ...]
    name: str
    must: str
    make: Callable[[Room], list[str]]
    says: str | tuple[str, ...] = ()
    check: Callable[[Room, Done], None] = lambda room, done: None
    remade: tuple[str, ...] = ()
    code: int | None = None
    """Of the program; None: what CODES has."""

    @property
    def of(self) -> tuple[int, ...]:
        return self.numbers if isinstance(self.numbers, tuple) else (self.numbers,)


class Verdict(NamedTuple):
    """How a case ended; `wrong` says what is not as it must be, "" where all is."""

    wrong: str
    traceback: bool
    executed: bool
    changed: bool
    seconds: float


def judge(cases: Iterable[Case], lab: Lab) -> dict[str, Any]:
    """Run the cases, two at once; the object that the last line of the benchmark holds."""
    result: dict[str, Any] = {"cases": 0, "right": 0, "tracebacks": 0, "executed": 0, "changed": 0, "seconds_max": 0.0}
    cases, wrong = list(cases), set[int]()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for case, found in zip(cases, pool.map(lambda case: run(case, lab), cases), strict=True):
            numbers = ", ".join(map(str, case.of))
            say(f"{f'WRONG ({found.wrong})' if found.wrong else 'right'}  {numbers} {case.name}: {found.seconds:.1f} s")
            result["cases"] += 1
            result["right"] += not found.wrong
            result["tracebacks"] += found.traceback
            result["executed"] += found.executed
            result["changed"] += found.changed
            result["seconds_max"] = max(result["seconds_max"], round(found.seconds, 2))
            wrong |= set(case.of) if found.wrong else set()
    return result | {"wrong": sorted(wrong)}


def run(case: Case, lab: Lab) -> Verdict:
    """One case in a room of its own."""
    with _room(lab) as room:
        command = case.make(room)
        before, done = listing(room.folder), _run(room, command)
        after = listing(room.folder)
        changed = sorted(_changed(case, before, after))
        wrong = list(_faults(case, done, changed, room.canary.exists()))
        try:
            case.check(room, done)
        except AssertionError as error:
            wrong.append(str(error) or "not as it must be")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            wrong.append(f"what it left cannot be read: {error!r}")
        return Verdict("; ".join(wrong), "Traceback" in done.text, room.canary.exists(), bool(changed), done.seconds)


@contextmanager
def _room(lab: Lab) -> Iterator[Room]:
    with tempfile.TemporaryDirectory(prefix="bad") as folder:
        room = Room(Path(folder).resolve(), lab)
        room.storage.mkdir()
        with room.stack:
            yield room


def _run(room: Room, command: list[str]) -> Done:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    given = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"} | room.environment
    reads, writes = os.pipe()
    started = time.monotonic()
    with os.fdopen(reads, "rb") as nobody, os.fdopen(writes, "wb") as gone:
        if room.closed:
            nobody.close()
        try:
            done = subprocess.run(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=gone if room.closed else subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=room.cwd,
                env=given,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Done(-1, "", f"it did not end in {TIMEOUT:.0f} s", time.monotonic() - started)
    out, err = ((printed or b"").decode(errors="replace") for printed in (done.stdout, done.stderr))
    return Done(done.returncode, out + err, err, time.monotonic() - started)


def _faults(case: Case, done: Done, changed: list[str], executed: bool) -> Iterator[str]:
    """What no case may lead to, and what this one must."""
    wanted = CODES[case.must] if case.code is None else case.code
    if done.code != wanted:
        yield f"exit code {done.code}, not {wanted}: {done.text[-300:].strip()}"
    if "Traceback" in done.text:
        yield f"a traceback: {done.text[-300:].strip()}"
    if case.must == "E" and not any(word in done.complaints for word in WORDS):
        yield f"it does not say what was found and what is allowed: {done.complaints[-300:].strip()}"
    for text in (case.says,) if isinstance(case.says, str) else case.says:
        if text not in done.text:
            yield f"it does not say {text!r}: {done.text[-600:].strip()}"
    if changed:
        yield f"changed: {', '.join(changed[:5])}"
    if executed:
        yield "what was planted was executed"


def _changed(case: Case, before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    """What was there and is another now, or gone; and what a program wrote although it refused its input."""

    def expected(name: str) -> bool:
        return any(fnmatch(name, f"storage/{pattern}") for pattern in case.remade)

    for name, what in before.items():
        if after.get(name) != what and (case.must == "E" or not expected(name)):
            yield name
    if case.must == "E":
        new = after.keys() - before.keys() - {CANARY}
        yield from (name for name in new if not name.endswith("lock") and not expected(name))


def listing(folder: Path) -> dict[str, str]:
    """All that lies in a folder but folders: files by the hash of what they hold, links by where they lead."""
    found = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not stat.S_ISDIR(mode):
            found[str(path.relative_to(folder))] = str(path.readlink()) if path.is_symlink() else "no file"
    return found


def within_memory(room: Room, done: Done) -> None:
    """A check that no program so far, this one included, took more memory than any may."""
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert most < MEMORY, f"a program took {most:,} bytes of memory"
