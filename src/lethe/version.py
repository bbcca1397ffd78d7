"""Which state of this code runs."""

import shutil
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def commit() -> str | None:
    """The commit of the git checkout that runs, with `-dirty` where its files differ from that; None without one."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return None
    asked = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or None


def code() -> str:
    """The commit, or the package's version where there is none, as in a job or an image."""
    return commit() or version("lethe")
