"""Every case of the catalogue of bad input that a program of ours can meet: is it treated as it must be?

python -m benchmarks.bad_input [--only N ...]. Every case starts a real program on bad input of its own: configurations,
names, pages, data sets, tokenizers, token shards, checkpoints, an MLflow, text for a report; six to eight minutes on
two cores. E: refused, exit code 2, a message that says where, what was found and what is allowed, nothing written. R:
left out, counted by its reason. B, P: built again, or the one before taken, and the result is that of good input. W:
accepted. T: shown as text. The last line is one JSON object:

cases, right    how many there are, and how many ended as they must
tracebacks      programs that showed one
executed        cases in which code that was planted ran
changed         cases in which what was there was altered or lost, or a program wrote though it refused its input
seconds_max     the longest that one took
wrong           the numbers of the cases that are not right
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.bad_input.case import judge
from benchmarks.bad_input.lab import Lab
from benchmarks.bad_input.table import CASES, NOT_MET
from lethe.config import UserError
from lethe.program import run_program


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", type=int, metavar="N", help="cases of these numbers")
    parser.add_argument("--list", action="store_true", help="name the cases, and those no program can meet, and end")
    given = parser.parse_args(argv)
    if given.list:
        print("\n".join(f"{', '.join(map(str, case.of))} {case.name}: {case.must}" for case in CASES))
        print("\n".join(f"{number} not met: {reason}" for number, reason in NOT_MET.items()))
        return 0
    cases = [case for case in CASES if given.only is None or {*case.of} & {*given.only}]
    if not cases:
        raise UserError(f"--only: found {given.only}; allowed: numbers of --list")
    with tempfile.TemporaryDirectory(prefix="bad") as folder:
        result = judge(cases, Lab(Path(folder).resolve()))
    print(json.dumps(result))
    return 0 if result["right"] == result["cases"] else 1


if __name__ == "__main__":
    run_program(main)
