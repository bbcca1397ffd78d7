"""A program that has nothing heavy to do, as it is run; for the tests beside it."""

import subprocess
import sys
from pathlib import Path

ALONE = """
import sys
from importlib import import_module
code = import_module(f"ray_jobs.{sys.argv[1]}").main(sys.argv[2:])
assert not {"ray", "torch", "mlflow"} & sys.modules.keys(), "started what it does not need"
sys.exit(code)
"""


def run_alone(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of ray_jobs, which must not start Ray."""
    command = [sys.executable, "-c", ALONE, program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
