"""Seconds of a training step: ours beside nanoGPT's and litgpt's, inside a grid's trial, and under the GEMM limit.

python -m benchmarks.step --nanogpt DIR --litgpt DIR. All of it runs on the CPU, in one process, on the same rows;
docs/speed.md says how to get the two folders. Without one, its figures are null. The last line is one JSON object.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.config import RawConfig, UserError, validate
from lethe.model.config import ModelConfig
from lethe.model.cost import flops_per_token
from lethe.program import run_program
from lethe.progress import say

if TYPE_CHECKING:
    from benchmarks.figures import Figure
    from benchmarks.rounds import Lane, Rounds
    from benchmarks.trainers import Precision
    from lethe.tokens.shards import TokenData

# Precision, and whether compiled. In bf16 eager is a third slower than compiled, with both.
VARIANTS: list[tuple["Precision", bool]] = [("fp32", False), ("fp32", True), ("bf16", True)]


def main(argv: list[str]) -> int:
    """See the module's docstring; returns 1 where the trainers did not do equal work."""
    given = _arguments(argv)
    shape = {"layers": given.layers, "heads": given.heads, "d_model": given.d_model, "context": given.context}
    model = validate(ModelConfig, RawConfig("command line", shape, {}))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the rivals would move to a GPU by themselves
    os.environ["OMP_WAIT_POLICY"] = "passive"  # a thread that spins while its sibling waits for a core is not at work
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        figures, detail = measure(given, model, Path(folder))
    from benchmarks.figures import table

    print(table(figures, detail))
    headline = {name: figure and round(figure["cpu"]["median"], 4) for name, figure in figures.items()}
    print(json.dumps({**headline, "detail": {"figures": figures, **detail}}))
    return 1 if detail["problems"] else 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a clone of nanoGPT")
    parser.add_argument("--litgpt", type=Path, metavar="DIR", help="a folder with litgpt and what it needs")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds, at least 8 for a figure to report (10)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores")
    parser.add_argument("--no-grid", action="store_true", help="leave out the grid; its figure is then null")
    shape = {"layers": 6, "heads": 8, "d-model": 256, "context": 256, "batch": 8, "vocab": 32768}
    for name, default in shape.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=str(default))
    given = parser.parse_args(argv)
    if problems := list(_problems(given)):
        raise UserError("\n".join(problems))
    return given


def _problems(given: argparse.Namespace) -> Iterator[str]:
    for name in ("rounds", "threads", "batch"):
        if getattr(given, name) < 1:
            yield f"--{name}: found {getattr(given, name)}; allowed: 1 or more"
    if given.vocab % 64 or not 320 <= given.vocab <= 32768:
        yield f"--vocab: found {given.vocab}; allowed: multiples of 64 from 320 to 32768"
    if given.nanogpt and not (given.nanogpt / "model.py").is_file():
        yield f"--nanogpt: found no model.py in {given.nanogpt}; allowed: a clone of nanoGPT (see docs/speed.md)"
    if given.litgpt and not (given.litgpt / "litgpt" / "pretrain.py").is_file():
        yield f"--litgpt: found no litgpt/pretrain.py in {given.litgpt}; allowed: a folder made as docs/speed.md says"


def measure(given: argparse.Namespace, model: ModelConfig, folder: Path) -> tuple[dict[str, "Figure"], dict[str, Any]]:
    """The figures (`cpu` and `wall`, each median, min and max; or None), and what belongs to them."""
    from benchmarks.figures import LINES, compare, lanes_detail
    from benchmarks.tokens import write_tokens
    from benchmarks.trainers import stage

    say("writing tokens")
    data, bf16 = write_tokens(folder, given.vocab), _has_bf16_units()
    rounds, problems = _alternate(given, _lanes(given, model, data, folder, bf16), model, data)
    figures, shipped = compare(rounds, bf16, flops_per_token(model, given.vocab) * given.batch * model.context)
    figures["grid_step_ratio"] = None
    if not given.no_grid:
        from benchmarks.grid_step import measure as measure_grid

        say("a grid of one cell; its stage bare before and after")
        recipe = stage(model, given.batch, shipped.precision, shipped.compiled).recipe
        figures["grid_step_ratio"] = measure_grid(model, recipe, data, folder / "grid", given.threads)
    detail = {"ours_as_shipped": shipped.name, "bf16_units": bf16, "problems": problems}
    return {name: figures[name] for name in LINES}, detail | _setting(given) | lanes_detail(rounds)


def _lanes(given: argparse.Namespace, model: ModelConfig, data: "TokenData", folder: Path, bf16: bool) -> list["Lane"]:
    """Every trainer with large buffers kept, and the rivals as shipped. Ours first: it resets torch's compiler."""
    from benchmarks.rivals import litgpt, litgpt_precision, nanogpt, weights_of
    from benchmarks.rounds import Lane
    from benchmarks.trainers import ours, stage

    variants, lanes = VARIANTS if bf16 else VARIANTS[:2], []
    for precision, compiled in variants:
        store = folder / f"{precision}-{compiled}"
        lanes.append(Lane(ours(stage(model, given.batch, precision, compiled), data, store, given.threads), tuned=True))
    weights = weights_of(lanes[0].trainer.model)
    if given.nanogpt:
        make = nanogpt(given.nanogpt, model, given.vocab)
        plain, faster = make("fp32", False), make("fp32", True)
        lanes += [Lane(plain, tuned=True), Lane(faster, tuned=True), Lane(plain, tuned=False)]
    if given.litgpt:
        make, picked = litgpt(given.litgpt, model, given.vocab, weights), litgpt_precision(given.litgpt)
        trainers = {variant: make(*variant) for variant in variants}
        lanes += [Lane(trainer, tuned=True) for trainer in trainers.values()]
        lanes.append(Lane(trainers.get((picked, True)) or make(picked, True), tuned=False))
    return lanes


def _alternate(
    given: argparse.Namespace, lanes: list["Lane"], model: ModelConfig, data: "TokenData"
) -> tuple["Rounds", list[str]]:
    """The rounds, run, and what speaks against equal work."""
    import torch

    from benchmarks.rounds import PROOF, WARM_UP, Rounds, unequal
    from benchmarks.trainers import stage
    from lethe.training.sampler import MixtureSampler

    sampler = MixtureSampler(stage(model, given.batch, "fp32", False), data)
    rounds = Rounds(lanes, lambda step: torch.from_numpy(sampler.rows(step)))
    say(f"warm-up of {len(rounds.trainers)} trainers")
    rounds.advance(WARM_UP)
    for i in range(given.rounds):
        say(f"round {i + 1} of {given.rounds}")
        rounds.run()
    rounds.advance(PROOF)
    return rounds, unequal(rounds, given.vocab)


def _has_bf16_units() -> bool:
    import torch

    from lethe.training.machine import check_precision

    try:
        check_precision("bf16", torch.device("cpu"))
    except UserError:
        return False
    return True


def _setting(given: argparse.Namespace) -> dict[str, Any]:
    import platform

    import torch

    processor = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "torch": torch.__version__,
        "processor": f"{processor}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": given.threads,
        "rounds": given.rounds,
        "shape": {name: getattr(given, name) for name in ("layers", "heads", "d_model", "context", "batch", "vocab")},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    run_program(main)
