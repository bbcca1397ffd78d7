"""Processes of a grid killed at random moments, and the same command given again."""

import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.lab import Lab, Program, Verdict, lost_steps, signal_to
from lethe.progress import say

ROLES = ("worker", "driver", "raylet", "gcs", "all")
PROCESSES = {
    "worker": ("ray::ResourceTrainable", "ray::CellTrial"),
    "raylet": ("/raylet/raylet",),
    "gcs": ("/gcs_server",),
}
UNTIL_DEAD = 150.0  # seconds; what is left of Ray waits a minute for a lost head


@dataclass
class Killed:
    """How many kills there were, how the grids ended that suffered them, and the most steps that one kill cost."""

    kills: int = 0
    lost_steps: int = 0
    verdicts: list[Verdict] = field(default_factory=list)


def kill_again_and_again(lab: Lab, kills: int, seed: int) -> Killed:
    """Kill so often; after one kill of each role the grid may end, and is compared with the undisturbed one."""
    rng, killed = random.Random(seed), Killed()
    while killed.kills < kills:
        storage = lab.fresh(f"kills{len(killed.verdicts)}")
        program = lab.start(storage)
        for role in rng.sample(ROLES, min(len(ROLES), kills - killed.kills)):
            if not _reach_a_moment(program, storage, rng):
                program.end()
                program = lab.start(storage)  # it had ended: this kill finds it looking at what is finished
                program.wait_for(lambda: False, rng.uniform(0, 5))
            killed.kills += _kill(program, role, rng)
            if not program.runs or role != "worker":
                program.end(UNTIL_DEAD)
                program = lab.start(storage)
        program.end()
        lab.finish(storage)
        killed.verdicts.append(lab.compare(storage))
        killed.lost_steps = max(killed.lost_steps, lost_steps(storage))
        say(f"{killed.kills} of {kills} kills: {killed.verdicts[-1]}, at most {killed.lost_steps} steps lost by one")
    return killed


def _reach_a_moment(program: Program, storage: Path, rng: random.Random) -> bool:
    """Until some steps more are trained, or, one time in three, a random time has passed; False if it ended before."""
    if rng.random() < 1 / 3:
        until = time.monotonic() + rng.uniform(0, 20)
        return program.wait_for(lambda: time.monotonic() > until)
    trace = storage / "trace.txt"
    size = trace.stat().st_size if trace.exists() else 0
    wanted = size + rng.randrange(18 * 150)  # bytes: lines of 18, a stage has 234 steps
    return program.wait_for(lambda: trace.exists() and trace.stat().st_size > wanted)


def _kill(program: Program, role: str, rng: random.Random) -> int:
    """Kill one process of the role (of `all`, each); returns how many kills that was: 0 where there is none."""
    if role == "all":
        program.kill()
    elif role == "driver":
        signal_to(program.process.pid, signal.SIGKILL)
    elif found := program.named(*PROCESSES[role]):
        signal_to(rng.choice(found), signal.SIGKILL)
    else:
        return 0
    return 1
