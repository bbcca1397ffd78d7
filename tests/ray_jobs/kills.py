"""A program that is killed again and again, each run going on from what the last has left; for the tests beside it.

A kill is SIGKILL to the program and to every process below it, Ray's included.
"""

import os
import random
import re
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.chaos.lab import Program
from lethe.files import sha256

KILLS, IN_A_ROW = 30, 6
MARKS = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(3600)]
MARKS += [pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")]
SLOW_DISK = {"CHAOS_SLOW": "0.2"}
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

    def run(self, *overrides: str, code: int = 0) -> tuple[str, float]:
        """Run the program to its end, which must be this exit code; what it prints, and seconds."""
        started, program = time.monotonic(), self.start(*overrides)
        found = program.process.wait(900)
        seconds = time.monotonic() - started
        assert found == code, program.text
        assert program.leaves_nothing(60), program.family()
        program.kill()
        return program.text, seconds

    def start(self, *overrides: str, **environment: str) -> Program:
        arguments = [f"ray_jobs.{self.program}", str(self.storage / "grid.yaml"), f"storage={self.storage}"]
        return Program([*arguments, *overrides], self.storage / "output.txt", environment)

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
        program = victim.start(**(SLOW_DISK if kill % 3 == 2 else {}))
        _wait_for_a_moment(victim, program, rng, kill % 3, seconds)
        running = program.runs
        program.kill()
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


def _wait_for_a_moment(victim: Victim, program: Program, rng: random.Random, kind: int, seconds: float) -> None:
    """Until a random time (kind 0), a random piece is finished (1), or a file is in the writing after such a piece (2).

    Or until the program has ended.
    """
    there, left_before = _pieces(victim), _in_mid_file(victim)
    wanted = there + rng.randint(kind % 2, max(victim.pieces - there - 1, 1))

    def reached() -> bool:
        return _pieces(victim) >= wanted and (kind == 1 or bool(_in_mid_file(victim) - left_before))

    if kind == 0:
        program.wait_for(lambda: False, rng.uniform(0, seconds))
    else:
        program.wait_for(reached, 5 * seconds)
    if kind == 1:
        time.sleep(rng.uniform(0, LATER))


def _pieces(victim: Victim) -> int:
    return sum(bool(re.fullmatch(victim.piece, name)) for name in victim.files())


def _in_mid_file(victim: Victim) -> set[str]:
    """The files that have their temporary names still."""
    return {name for name in victim.files() if Path(name).name.startswith(".")}
