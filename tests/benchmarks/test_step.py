"""The benchmark of a step: what it prints, on a size that takes seconds, and the arithmetic of its figures."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rounds import Seconds, ratio
from benchmarks.step import main
from lethe.config import UserError

ROOT = Path(__file__).parents[2]
SIZE = {"layers": 1, "heads": 2, "d-model": 32, "context": 32, "batch": 4, "vocab": 320, "threads": 1}
TINY = [f"--{name}={value}" for name, value in SIZE.items()]
RIVALS = {"vs_nanogpt_as_shipped", "vs_litgpt_as_shipped", "like_for_like_fp32", "like_for_like_bf16"}


@pytest.mark.long
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a compiler")
def test_without_rivals_their_figures_are_null() -> None:
    """In a process of its own, for the benchmark changes the settings of its process."""
    command = [sys.executable, "-m", "benchmarks.step", *TINY, "--rounds", "1", "--no-grid"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last.keys() == {*RIVALS, "grid_step_ratio", "of_gemm_limit", "detail"}
    assert [last[name] for name in (*RIVALS, "grid_step_ratio")] == [None] * 5
    assert 0 < last["of_gemm_limit"] < 1
    detail = last["detail"]
    names = {"lethe fp32 eager", "lethe fp32 compiled"} | ({"lethe bf16 compiled"} if detail["bf16_units"] else set())
    assert detail["seconds"].keys() == detail["losses"].keys() == names
    assert detail["parameters"] == dict.fromkeys(names, 320 * 32 + 4 * 32**2 + 3 * 32 * 128 + 3 * 32)
    assert detail["losses"]["lethe fp32 eager"] == pytest.approx(detail["losses"]["lethe fp32 compiled"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds: found 0; allowed: 1 or more"),
        (["--heads", "3"], "d_model: found 32 for 3 heads"),
        (["--vocab", "330"], "--vocab: found 330; allowed: multiples of 64"),
        (["--nanogpt", "nowhere"], "--nanogpt: found no model.py in nowhere"),
        (["--litgpt", "nowhere"], "--litgpt: found no litgpt/pretrain.py in nowhere"),
    ],
)
def test_bad_arguments_are_told_before_anything_starts(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        main([*TINY, "--no-grid", *arguments])


def test_a_ratio_is_taken_round_by_round() -> None:
    over = [Seconds(wall=2, cpu=4), Seconds(wall=6, cpu=9), Seconds(wall=8, cpu=2)]
    under = [Seconds(wall=1, cpu=2), Seconds(wall=2, cpu=1), Seconds(wall=8, cpu=2)]
    assert ratio(over, under, factor=2) == {
        "cpu": {"median": 4, "min": 2, "max": 18},
        "wall": {"median": 4, "min": 2, "max": 6},
    }
