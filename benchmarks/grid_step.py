"""A step inside a grid's trial beside the same step in a process of its own."""

import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.rounds import Seconds, ratio
from grid.spec import Grid
from lethe.config import RawConfig, validate
from lethe.model.config import ModelConfig
from lethe.tokens.shards import TokenData
from lethe.training.stage import Recipe

STEPS, SKIPPED = 40, 12  # steps of the stage, and how many of its first are left out: they compile and warm up
TIMES = "LETHE_BENCHMARK_TIMES"  # where a process writes the seconds of its steps


def measure(model: ModelConfig, recipe: Recipe, data: TokenData, folder: Path, threads: int) -> dict[str, Any]:
    """Bare step over step in a trial: `cpu` and `wall` as `ratio` gives them, against the run before and after."""
    grid = _grid(model, recipe, data, folder, threads)
    bare = [_apart(_run_bare, grid, data.root, folder / "before")]
    trial = _apart(_run_grid, grid, data.root, folder / "trial")
    bare.append(_apart(_run_bare, grid, data.root, folder / "after"))
    result = ratio([_median(run) for run in bare], [_median(trial)] * 2)
    return result | {"bare": [_median(run)._asdict() for run in bare], "trial": _median(trial)._asdict()}


def _grid(model: ModelConfig, recipe: Recipe, data: TokenData, folder: Path, threads: int) -> Grid:
    """One cell of one stage, evaluated and checkpointed on the way."""
    read = {
        "name": "step",
        "storage": str(folder),
        "corpora": data.corpora,
        "tokenizer": {"vocab_size": data.vocab_size},
        "models": ["tiny"],  # replaced below: the benchmark's model has no name
        "baselines": [{"one": data.corpora}],
        "stage": recipe.model_dump(exclude_none=True)
        | {
            "tokens": STEPS * recipe.batch * model.context,
            "max_epochs": 1000,
            "evaluation": {"sequences": 8, "marks": 4},
            "checkpoint_every": 15,
        },
        "resources": {"default": {"cpus": threads, "threads": threads}},
    }
    grid = validate(Grid, RawConfig("benchmarks.step", read, {}))
    return grid.model_copy(update={"models": {"step": model}})


def _apart(run: Any, grid: Grid, tokens: Path, folder: Path) -> list[Seconds]:
    """Run in a fresh process, so that none inherits what another has warmed; the seconds of its training steps."""
    folder.mkdir(parents=True)
    process = multiprocessing.get_context("spawn").Process(target=run, args=(grid, tokens, folder))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{run.__name__} ended with exit code {process.exitcode}")
    lines = (folder / "times").read_text().splitlines()
    assert len(lines) == STEPS, f"found {len(lines)} steps; the stage has {STEPS}"
    return [Seconds(*map(float, line.split())) for line in lines]


def _median(run: list[Seconds]) -> Seconds:
    return Seconds(*map(statistics.median, zip(*run[SKIPPED:], strict=True)))


def record_steps() -> None:
    """Make this process write what each of its training steps takes, a line each, to the file that TIMES names."""
    from lethe.training.loop import Training

    path, step = Path(os.environ[TIMES]), Training.train_step

    def recorded(training: Training) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = step(training)
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        with path.open("a") as file:
            print(*seconds, file=file)
        return loss

    Training.train_step = recorded  # type: ignore[assignment,method-assign]


def _run_bare(grid: Grid, tokens: Path, folder: Path) -> None:
    from grid.tree import Tree
    from lethe.training.job import Job
    from lethe.training.loop import run_stage
    from lethe.training.store import StageStore
    from lethe.worker import Worker

    os.environ[TIMES] = str(folder / "times")
    record_steps()
    (stage,) = Tree(grid).stages.values()
    store, settings = StageStore(folder / "stages"), grid.stage
    job = Job(stage, TokenData(tokens), store, tuple(grid.corpora), settings.evaluation, settings.checkpoint_every)
    run_stage(job, Worker(threads=grid.resources_of("step").threads))


def _run_grid(grid: Grid, tokens: Path, folder: Path) -> None:
    import logging

    import ray

    os.dup2(2, 1)  # stdout is for the figures
    from grid.driver import run

    root = str(Path(__file__).parents[1])  # a worker loads the hook before it knows where the driver's modules are
    variables = {TIMES: str(folder / "times"), "PYTHONPATH": root}
    hook = {"worker_process_setup_hook": record_steps, "env_vars": variables}
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, runtime_env=hook)  # as ensure_ray
    code = run(grid.model_copy(update={"storage": folder}), TokenData(tokens), f"sqlite:///{folder}/mlflow.db")
    assert code == 0, "the grid's cell is not finished"
