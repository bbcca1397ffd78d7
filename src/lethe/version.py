"""Which state of this code runs."""

import shutil
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("src", "grid", "ray_jobs")


@cache
def commit() -> str | None:
    """The commit of the git checkout that runs, with `-dirty` where its code is not that; None without one."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return None

    def ask(*question: str) -> str:
        asked = [git, "-C", str(ROOT), *question]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()

    dirty = "-dirty" * bool(ask("status", "--porcelain", "--", *CODE))  # new files too: an intervention of one's own
    return f"{found}{dirty}" if (found := ask("rev-parse", "HEAD")) else None


def code() -> str:
    """The commit, or the package's version where there is none, as in a job or an image."""
    return commit() or version("lethe")
