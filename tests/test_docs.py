"""What README and docs/ tell people to type is there: programs, their flags, configurations, files that are linked.

Help is there at once: it loads nothing heavy.
"""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from grid.spec import load_grid

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GRID_PROGRAMS = {
    f"ray_jobs.{name}" for name in ("clean", "extract", "index", "run_grid", "status", "survey", "tokenize")
}


def commands() -> list[str]:
    """Every `python -m ...` of the pages, in blocks and in lines, without its comment."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        found += re.findall(r"^ *(?:rivals\S+)?(python -m .*)$", text, re.MULTILINE)
        found += re.findall(r"-- +(python -m .*)$", text, re.MULTILINE)
        found += re.findall(r"`(python -m [^`]*)`", text)
    return sorted({re.sub(r"\s+#.*", "", command).strip() for command in found})


HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
finally:
    assert not {"torch", "ray", "mlflow", "transformers"} & sys.modules.keys(), "it loads what help does not need"
"""


@functools.cache
def help_of(module: str) -> str:
    done = subprocess.run([sys.executable, "-c", HELP, module], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("command", commands())
def test_what_is_told_to_be_typed_is_there(command: str):
    _, _, module, *arguments = shlex.split(re.sub(r"[\[\]|]", " ", command) if " [" in command else command)
    if module == "pytest":
        return
    shown = help_of(module)
    for flag in (argument for argument in arguments if argument.startswith("--")):
        assert flag.partition("=")[0] in shown
    given = [argument for argument in arguments if not argument.startswith("--")]
    if module in GRID_PROGRAMS and given and given[0].endswith(".yaml"):
        load_grid(ROOT / given[0], [argument for argument in given[1:] if "=" in argument])


def test_there_are_many_commands():
    assert len(commands()) > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_linked_and_named_is_there(page: Path):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (page.parent / link).exists(), link
    for path in re.findall(r"`((?:src|grid|ray_jobs|configs|benchmarks|tests|docs|deploy)/[\w./-]+\.\w+)`", text):
        assert (ROOT / path).exists() or path.split("/")[-1][0].isupper() or path.endswith("ball.py"), path


def test_the_targets_of_make_are_there():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`?make ([a-z]+)", (ROOT / "README.md").read_text())) <= set(targets)
