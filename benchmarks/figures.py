"""The figures: which lanes are compared, and how they are shown."""

import statistics
from typing import Any

from benchmarks.rounds import PROOF, Lane, Rounds, gemm_flops, median_cpu, ratio
from benchmarks.trainers import OURS, Trainer

LINES = {
    "vs_nanogpt_as_shipped": "nanoGPT as shipped / ours as shipped",
    "vs_litgpt_as_shipped": "litgpt as shipped / ours as shipped",
    "like_for_like_fp32": "faster rival in fp32 / ours in fp32",
    "like_for_like_bf16": "litgpt in bf16 / ours in bf16",
    "grid_step_ratio": "bare step / step in a grid's trial",
    "of_gemm_limit": "FLOP/s of ours as shipped / of a matrix product",
}
Figure = dict[str, Any] | None


def compare(rounds: Rounds, bf16: bool, flops: int) -> tuple[dict[str, Figure], Trainer]:
    """The figures of the rounds, None where a rival is missing, and our trainer as shipped.

    As shipped ours is bf16 and compiled where the processor has the units, else the faster in fp32; a rival is what
    its own program does here. Like for like all run with large buffers kept, each in its faster way. `flops` are
    those of a step.
    """
    fp32 = _fastest(rounds, {OURS}, "fp32")
    shipped = next(lane for lane in rounds.lanes if lane.name == f"{OURS} bf16 compiled") if bf16 else fp32
    assert shipped is not None and fp32 is not None
    owners = {lane.trainer.owner for lane in rounds.lanes} - {OURS}
    figures = {
        "vs_nanogpt_as_shipped": _over(rounds, _as_shipped(rounds, "nanoGPT"), shipped),
        "vs_litgpt_as_shipped": _over(rounds, _as_shipped(rounds, "litgpt"), shipped),
        "like_for_like_fp32": _over(rounds, _fastest(rounds, owners, "fp32") if len(owners) == 2 else None, fp32),
        "like_for_like_bf16": _over(
            rounds, _fastest(rounds, owners, "bf16") if bf16 else None, _fastest(rounds, {OURS}, "bf16")
        ),
        "of_gemm_limit": _of_gemm_limit(rounds, shipped, flops),
    }
    return figures, shipped.trainer


def _fastest(rounds: Rounds, owners: set[str], precision: str) -> Lane | None:
    lanes = [
        lane
        for lane in rounds.lanes
        if lane.tuned and lane.trainer.owner in owners and lane.trainer.precision == precision
    ]
    return min(lanes, key=lambda lane: median_cpu(rounds.seconds[lane.name]), default=None)


def _as_shipped(rounds: Rounds, owner: str) -> Lane | None:
    return next((lane for lane in rounds.lanes if not lane.tuned and lane.trainer.owner == owner), None)


def _over(rounds: Rounds, rival: Lane | None, own: Lane | None) -> Figure:
    if rival is None or own is None:
        return None
    seconds = ratio(rounds.seconds[rival.name], rounds.seconds[own.name])
    return seconds | {"rival": rival.name, "ours": own.name}


def _of_gemm_limit(rounds: Rounds, lane: Lane, flops: int) -> Figure:
    precision = lane.trainer.precision
    seconds = ratio(rounds.gemm[precision], rounds.seconds[lane.name], flops / gemm_flops())
    return seconds | {"ours": lane.name, "flops_a_step": flops}


def lanes_detail(rounds: Rounds) -> dict[str, Any]:
    """Median seconds of each lane, GEMM rates, parameter counts and the losses of the proof."""
    return {
        "seconds": {name: _median(seconds) for name, seconds in rounds.seconds.items()},
        "gemm_gflops": {
            precision: gemm_flops() / statistics.median(each.wall for each in seconds) / 1e9
            for precision, seconds in rounds.gemm.items()
        },
        "parameters": {trainer.name: trainer.parameters for trainer in rounds.trainers},
        "losses": {name: [round(loss, 5) for loss in curve[:PROOF]] for name, curve in rounds.losses.items()},
    }


def _median(seconds: list[Any]) -> dict[str, float]:
    return {kind: statistics.median(getattr(each, kind) for each in seconds) for kind in ("wall", "cpu")}


def table(figures: dict[str, Figure], detail: dict[str, Any]) -> str:
    """For people: the proof of equal work, the seconds of each lane, the figures."""
    shown = [0, 4, 9, 14, PROOF - 1]
    lines = [f"{'loss at step':<34}{''.join(f'{i + 1:>9}' for i in shown)}{'parameters':>14}"]
    for name, curve in detail["losses"].items():
        lines.append(f"{name:<34}{''.join(f'{curve[i]:>9.4f}' for i in shown)}{detail['parameters'][name]:>14,}")
    lines += ["", f"{'median of a step, seconds':<34}{'CPU':>9}{'wall':>9}"]
    lines += [f"{name:<34}{each['cpu']:>9.3f}{each['wall']:>9.3f}" for name, each in detail["seconds"].items()]
    lines += ["", f"{'':<50}{'CPU':>7}  {'min to max':<15}{'wall':>7}  min to max"]
    for name, text in LINES.items():
        figure = figures[name]
        numbers = "not measured" if figure is None else "  ".join(_numbers(figure[kind]) for kind in ("cpu", "wall"))
        lines.append(f"{text:<50}{numbers}")
    return "\n".join([*lines, *(f"NOT EQUAL WORK: {problem}" for problem in detail["problems"])])


def _numbers(values: dict[str, float]) -> str:
    return f"{values['median']:>7.3f}  {values['min']:.3f} to {values['max']:.3f}"
