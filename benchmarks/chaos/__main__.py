"""Random kills of a small grid and every fault that can be made on one machine, against the undisturbed run.

python -m benchmarks.chaos [--kills N] [--outage SECONDS] [--seed N] [--only NAME ...]. The last
line is one JSON object:

kills           processes killed at random moments (worker, driver, raylet, head, all), the same command following
faults          faults made beside that; each is one of `--list`
identical       1 if every final weight, and every number in results, curves and MLflow, is the undisturbed run's
lost_steps_max  the most steps that were trained again after one of them; a checkpoint is written every 20
doubled_points, lost_points   in MLflow
wrong           what was not as it must be, in words
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from benchmarks.chaos import cluster_faults, rank_faults, tracking_faults  # noqa: F401 - they add to FAULTS
from benchmarks.chaos.faults import FAULTS, suffer
from benchmarks.chaos.kills import kill_again_and_again
from benchmarks.chaos.lab import Lab
from lethe.config import UserError
from lethe.program import run_program
from lethe.progress import say


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="default: %(default)s")
    parser.add_argument("--outage", type=float, default=Lab.outage, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments; default: %(default)s")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these faults; default: all")
    parser.add_argument("--list", action="store_true", help="name the faults, and end")
    given = parser.parse_args(argv)
    if given.list:
        print("\n".join(FAULTS))
        return 0
    names = list(FAULTS) if given.only is None else given.only
    if unknown := set(names) - FAULTS.keys():
        raise UserError(f"--only: found {', '.join(sorted(unknown))}; allowed: {', '.join(FAULTS)}")
    root = Path(tempfile.mkdtemp(prefix="chaos"))
    try:
        result = disturb(Lab(root, given.outage), given.kills, names, given.seed)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(json.dumps(result))
    return 0 if result["identical"] and not result["wrong"] else 1


def disturb(lab: Lab, kills: int, names: list[str], seed: int) -> dict[str, object]:
    """All of it; the object that the last line holds."""
    say(f"the undisturbed run lies in {lab.calm}")
    wrong, steps, verdicts = [], [0], []
    for i, name in enumerate(names, start=1):
        verdict, lost = suffer(name, lab)
        wrong += [f"{name}: {difference}" for difference in verdict.differences]
        verdicts.append(verdict)
        steps.append(lost)
        say(f"[{i}/{len(names)}] {name}: {verdict}, {lost} steps lost")
    killed = kill_again_and_again(lab, kills, seed)
    wrong += [f"kills: {difference}" for verdict in killed.verdicts for difference in verdict.differences]
    verdicts += killed.verdicts
    return {
        "kills": killed.kills,
        "faults": len(names),
        "identical": int(not wrong),
        "lost_steps_max": max(*steps, killed.lost_steps),
        "doubled_points": sum(verdict.doubled_points for verdict in verdicts),
        "lost_points": sum(verdict.lost_points for verdict in verdicts),
        "wrong": wrong,
    }


if __name__ == "__main__":
    run_program(main)
