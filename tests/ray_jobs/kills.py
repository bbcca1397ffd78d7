"""A program that is killed again and again, each run going on from what the last has left; for the tests beside it.

A kill is SIGKILL to the program and to every process below it, Ray's included. Orphans come to this process (it is
their subreaper, see prctl(2)), so none of them can hide by taking a group, a session or a name of its own.
"""

import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from benchmarks.chaos.lab import PR_SET_CHILD_SUBREAPER, family
from lethe.files import sha256

KILLS, IN_A_ROW = 30, 6
MARKS = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(3600)]
MARKS += [pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")]
SLOW_DISK = str(Path(__file__).parent / "slow_disk")
LATER = 0.1  # seconds from the moment waited for to the kill, at most
GRID = """
corpora: [food, automotive]
models: [tiny]
baselines: [sequential_ab]
source: pages/*.parquet
stage: {tokens: 100000, batch: 8, learning_rate: 0.001}
"""


@dataclass(frozen=True)
class Victim:
    """A program with STORAGE/grid.yaml; whatever it writes lies in `made`, a folder below the storage or several.

    `piece` matches the name, below the storage, of a file that tells that a piece of the work is finished; `pieces` is
    how many of them there are towards the end.
    """

    program: str
    storage: Path
    made: tuple[str, ...]
    piece: str
    pieces: int

    @cached_property
    def others(self) -> set[int]:
        """Processes that were below this one before the program was started."""
        return family()

    def run(self, *overrides: str, code: int = 0) -> tuple[str, float]:
        """Run the program to its end, which must be this exit code; what it prints, and seconds."""
        started = time.monotonic()
        process = self.start(*overrides)
        process.wait(timeout=900)
        seconds, output = time.monotonic() - started, self._output.read_text()
        assert process.returncode == code, output
        self._all_end(60, process)
        return output, seconds

    def start(self, *overrides: str, slow_disk: bool = False) -> "subprocess.Popen[bytes]":
        """Start the program; with `slow_disk` its files keep their temporary names for a while."""
        assert not family() - self.others, "the run before left processes"
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        command = [sys.executable, "-m", f"ray_jobs.{self.program}", str(self.storage / "grid.yaml")]
        with self._output.open("wb") as output:
            return subprocess.Popen(
                [*command, f"storage={self.storage}", *overrides],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"RAY_TMPDIR": self._ray} | ({"PYTHONPATH": SLOW_DISK} if slow_disk else {}),
            )

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """SIGKILL to the program and all below it; they are gone when this returns."""
        self._all_end(60, process, signal.SIGKILL)

    def files(self) -> list[str]:
        """Of the folders `made`, by their names below the storage; those being written are among them, locks not."""
        top = f"{self.storage}{os.sep}"
        walks = (walk for folder in self.made for walk in os.walk(self.storage / folder))
        names = (f"{folder.removeprefix(top)}/{name}" for folder, _, some in walks for name in some)
        return [name for name in names if not name.endswith(".lock")]

    def hashes(self) -> dict[str, str]:
        return {name: sha256(self.storage / name) for name in self.files()}

    def wipe(self) -> None:
        for folder in self.made:
            shutil.rmtree(self.storage / folder, ignore_errors=True)

    @property
    def _output(self) -> Path:
        return self.storage / "output.txt"

    @cached_property
    def _ray(self) -> str:
        """Ray's temporary folder: short, for sockets lie in it, whose paths have 107 characters at most."""
        return tempfile.mkdtemp(prefix="ray")

    def _all_end(self, seconds: float, process: "subprocess.Popen[bytes]", by: signal.Signals | None = None) -> None:
        """Wait until no process of the program is there any more, sending each of them the signal, if there is one."""
        until = time.monotonic() + seconds
        while left := family() - self.others or family() - self.others:  # a look misses whose parent is just ending
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, by or 0)
            assert time.monotonic() < until, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
            time.sleep(0.01)
        process.wait()
        with suppress(ChildProcessError):  # orphans are ours now, and so are their remains
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        shutil.rmtree(self._ray, ignore_errors=True)


def kill_again_and_again(victim: Victim, seed: int) -> None:
    """Kill the program KILLS times: by turns at a random time, soon after a piece is finished, and in mid file.

    After six kills of one run, or where the kill came too late, the program may go on to the end; every file must
    then be as an undisturbed run left it, and no other be there.
    """
    victim.wipe()
    _, seconds = victim.run()
    expected = victim.hashes()
    rng, tally, row = random.Random(seed), Counter[str](), 0
    victim.wipe()
    for kill in range(KILLS):
        process = victim.start(slow_disk=kill % 3 == 2)
        _wait_for_a_moment(victim, process, rng, kill % 3, seconds)
        running = process.poll() is None
        victim.kill(process)
        tally["kills"] += 1
        tally["met it running"] += running
        tally["left some pieces"] += 0 < _pieces(victim) < victim.pieces
        tally["left half a file"] += bool(_in_mid_file(victim))
        row += 1
        if row == IN_A_ROW or not running or kill == KILLS - 1:
            victim.run()
            found = victim.hashes()
            assert found == expected, f"after {dict(tally)}: {sorted(found.items() ^ expected.items())}"
            victim.wipe()
            row = 0
            tally["runs compared"] += 1
    print(f"{victim.program}: an undisturbed run took {seconds:.1f} s; {dict(tally)}")
    assert tally["met it running"] >= KILLS / 2
    assert tally["left some pieces"] >= KILLS / 4
    assert tally["left half a file"] >= KILLS / 6


def _wait_for_a_moment(
    victim: Victim, process: "subprocess.Popen[bytes]", rng: random.Random, kind: int, seconds: float
) -> None:
    """Until a random time (kind 0), a random piece is finished (1), or a file is in the writing after such a piece (2).

    Or until the program has ended.
    """
    there, left_before = _pieces(victim), _in_mid_file(victim)
    wanted = there + rng.randint(kind % 2, max(victim.pieces - there - 1, 1))
    until = time.monotonic() + (rng.uniform(0, seconds) if kind == 0 else 5 * seconds)
    while process.poll() is None and time.monotonic() < until:
        if kind and _pieces(victim) >= wanted and (kind == 1 or _in_mid_file(victim) - left_before):
            break
        time.sleep(0.005)
    if kind == 1:
        time.sleep(rng.uniform(0, LATER))


def _pieces(victim: Victim) -> int:
    return sum(bool(re.fullmatch(victim.piece, name)) for name in victim.files())


def _in_mid_file(victim: Victim) -> set[str]:
    """The files that have their temporary names still."""
    return {name for name in victim.files() if Path(name).name.startswith(".")}
