"""What a grid costs and saves, against a shell loop over `lethe.train` that trains every cell on its own.

python -m benchmarks.grid [--seconds S] [--cells N] [--only PART ...]: the quickstart's model, one seed, eight ratios,
stages of at least S seconds; as many processes at once as there are processors, in the grid and in the loop; data and
tokenizer are there before either starts. The last line is one JSON object:

tokens_saved_ratio         of the tokens of the same cells without shared stages (part `loop`)
cells_per_hour_vs_loop     the grid's over the loop's, from process start to exit
loop_start_seconds         of a process of the loop, beside its steps and evaluations, on average
bare_over_wall             seconds that the stages recorded in steps and evaluations, over wall times processors
identical                  1 if the loop ends in the grid's weights
overhead_seconds_per_cell  in a grid of N cells of one step each: processors times wall, less what the stages recorded,
                           for each cell after the first two (part `many`)
overhead_growth            the last hundred of these cells over the first hundred after the first two: wall
plan_seconds, plan_gigabytes   of `--plan` for 100,200 cells, and the most memory it held (part `plan`)
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from grid.cells import Cell
from grid.spec import Grid, load_grid
from grid.tree import Tree
from lethe.program import run_program
from lethe.progress import say
from lethe.training.stage import Stage

SLOTS = len(os.sched_getaffinity(0))
CORPORA = ["food", "automotive"]
EIGHT: dict[str, Any] = {
    "corpora": CORPORA,
    "tokenizer": {"vocab_size": 2048},
    "models": ["tiny"],
    "baselines": ["sequential_ab", "sequential_ba", "combined"],
    "interleaving_ratios": [0, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75],
    "stage": {
        "tokens": 150_000,
        "batch": 8,
        "learning_rate": 6e-3,
        "max_epochs": 1000,
        "evaluation": {"sequences": 64, "marks": 8},
    },
}
MANY: dict[str, Any] = {
    "corpora": CORPORA,
    "tokenizer": {"vocab_size": 512},
    "models": ["toy"],
    "baselines": ["combined"],
    "stage": {
        "tokens": 256,
        "batch": 8,
        "learning_rate": 6e-3,
        "evaluation": {"sequences": 1, "marks": 1},
    },
}
HUNDRED_THOUSAND: dict[str, Any] = MANY | {
    "models": ["toy", "tiny", "small"],
    "baselines": ["sequential_ab", "sequential_ba"],
    "interleaving_ratios": [round(0.05 * i, 2) for i in range(10)],
    "interventions": {f"pull{i}": {"kind": "l2_sp", "strength": i} for i in range(1, 11)},
    "seeds": list(range(167)),
    "stage": {"tokens": 100_000, "batch": 8, "learning_rate": 6e-3},
}


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parts = {"plan": plan, "many": many, "loop": loop}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="of a stage, at least; default: %(default)s")
    parser.add_argument("--cells", type=int, default=2000, help="of the grid of many; default: %(default)s")
    parser.add_argument("--only", nargs="*", choices=parts, default=list(parts), help="default: all")
    given = parser.parse_args(argv)
    result: dict[str, Any] = {"processors": SLOTS}
    for part in given.only:
        root = Path(tempfile.mkdtemp(prefix=f"grid-{part}"))
        try:
            result |= parts[part](root, given)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        say(f"{part}: {result}")
    print(json.dumps(result))
    return 0


def call(root: Path, config: dict[str, Any], program: str, *arguments: str) -> tuple[float, str]:
    """Run a program on a grid's or a stage's YAML in a storage; wall seconds from start to exit, and its output."""
    root.mkdir(exist_ok=True)
    file = root / "benchmark.yaml"
    file.write_text(yaml.safe_dump(config))
    started = time.perf_counter()
    command = [sys.executable, "-m", program, str(file), f"storage={root}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started, done.stdout


def records(root: Path) -> list[dict[str, Any]]:
    """Of all finished stages of a storage, the earliest first."""
    files = sorted((root / "runs" / "stages").glob("*/stage.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text()) | {"ended": file.stat().st_mtime_ns / 1e9} for file in files]


def bare(record: dict[str, Any]) -> float:
    """Seconds of a stage in steps and evaluations."""
    return float(record["seconds"]["steps"] + record["seconds"]["evaluation"])


def plan(root: Path, given: argparse.Namespace) -> dict[str, Any]:
    """How long a plan of 100,200 cells takes."""
    file = root / "benchmark.yaml"
    file.write_text(yaml.safe_dump(HUNDRED_THOUSAND))
    started = time.perf_counter()
    command = [sys.executable, "-m", "ray_jobs.run_grid", str(file), f"storage={root}", "--plan"]
    with (root / "plan.txt").open("w") as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
    if status or "100200 cells" not in (root / "plan.txt").read_text():
        raise RuntimeError(f"--plan failed: {status}")
    return {"plan_seconds": time.perf_counter() - started, "plan_gigabytes": usage.ru_maxrss / 1e6}


def many(root: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What Ray Tune, the store, results and MLflow cost for each of many cells that train next to nothing."""
    config = MANY | {"seeds": list(range(given.cells))}
    call(root, config, "ray_jobs.tokenize")
    wall, _ = call(root, config, "ray_jobs.run_grid", "--quiet")
    done = records(root)
    assert len(done) == given.cells
    later = done[2:]
    spent = SLOTS * (later[-1]["ended"] - done[1]["ended"]) - sum(map(bare, later))
    first, last = (part[-1]["ended"] - part[0]["ended"] for part in (later[:101], later[-101:]))
    return {
        "cells": given.cells,
        "cells_wall": wall,
        "cells_bare": sum(map(bare, later)) / len(later),
        "overhead_seconds_per_cell": spent / len(later),
        "overhead_growth": last / first,
    }


def loop(root: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The grid of eight ratios, and the same cells by a loop without shared stages."""
    config = _long_enough(root, given.seconds)
    grid_root, loop_root = root / "grid", root / "loop"
    call(grid_root, config, "ray_jobs.tokenize")
    grid_wall, _ = call(grid_root, config, "ray_jobs.run_grid")
    done = records(grid_root)
    say(f"the grid took {grid_wall:.0f} s, its stages {min(map(bare, done)):.0f} to {max(map(bare, done)):.0f} s")
    grid = load_grid(grid_root / "benchmark.yaml", [f"storage={grid_root}"])
    cells = Tree(grid).cells
    started = time.perf_counter()
    with ThreadPoolExecutor(SLOTS) as pool:
        runs = list(pool.map(lambda cell: _train_alone(grid, cell, loop_root / cell.name), cells))
    loop_wall = time.perf_counter() - started
    weights = {name: digest for run in runs for name, digest in run["weights"].items()}
    plan = Tree(grid).plan()
    return {
        "stages": len(done),
        "stage_seconds_min": min(map(bare, done)),
        "tokens_saved_ratio": 1 - plan["tokens"] / plan["tokens_without_sharing"],
        "grid_wall": grid_wall,
        "loop_wall": loop_wall,
        "cells_per_hour_vs_loop": loop_wall / grid_wall,
        "loop_start_seconds": sum(run["start"] for run in runs) / sum(run["processes"] for run in runs),
        "bare_over_wall": sum(map(bare, done)) / (grid_wall * SLOTS),
        "identical": int(weights == {r["key"]: r["files"]["model.safetensors"] for r in done}),
    }


def _long_enough(root: Path, seconds: float) -> dict[str, Any]:
    """The grid of eight ratios with stages that take as long as that, by the speed of short ones side by side."""
    short = EIGHT | {"baselines": ["sequential_ab", "sequential_ba"], "interleaving_ratios": [0]}
    call(root / "speed", short, "ray_jobs.run_grid", "--quiet")
    slowest = min(150_000 / bare(record) for record in records(root / "speed"))
    return EIGHT | {"stage": EIGHT["stage"] | {"tokens": round(1.15 * slowest * seconds)}}


def _train_alone(grid: Grid, cell: Cell, root: Path) -> dict[str, Any]:
    """The stages of one cell, a process each, in a storage of their own on the grid's data."""
    root.mkdir(parents=True)
    (root / "data").symlink_to(grid.storage / "data")
    started, parent = time.perf_counter(), None
    for stage in cell.stages:
        _, output = call(root, _train_config(grid, stage, parent), "lethe.train")
        parent = output.split()[-2]
    done = records(root)
    return {
        "start": time.perf_counter() - started - sum(map(bare, done)),
        "processes": len(done),
        "weights": {record["key"]: record["files"]["model.safetensors"] for record in done},
    }


def _train_config(grid: Grid, stage: Stage, parent: str | None) -> dict[str, Any]:
    recipe = stage.recipe.model_dump(mode="json", exclude_none=True)
    evaluation = grid.stage.evaluation.model_dump(mode="json")
    return {
        "tokens": f"bpe{grid.tokenizer.vocab_size}",
        "model": stage.model.model_dump(mode="json"),
        "mixture": stage.mixture,
        "stage": recipe | {"tokens": stage.tokens, "evaluation": evaluation},
        "seed": stage.seed,
        **({"parent": parent} if parent else {}),
    }


if __name__ == "__main__":
    run_program(main)
