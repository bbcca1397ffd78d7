"""Alternating rounds: every lane steps once a round, in an order drawn anew, and is compared within its round."""

import ctypes
import gc
import math
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.trainers import OURS, Trainer
from lethe.training.machine import M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, keep_large_buffers

WARM_UP = 2  # steps of each trainer before anything is timed
PROOF = 20  # steps of each trainer, on the same rows, whose losses must fall alike; the warm-up and rounds among them
GEMM = 2048  # rows and columns of the probe
M_MMAP_THRESHOLD = -3  # of glibc's mallopt (malloc.h)
# Where its own adaptive settings end up once buffers of 32 MB have been freed.
GLIBC_DEFAULTS = ((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**26), (M_TOP_PAD, 2**17))

Rows = Callable[[int], Tensor]


class Seconds(NamedTuple):
    """What one step took."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Lane:
    """A trainer under one setting of the process.

    `tuned` is the setting that our trainer makes: glibc keeps large buffers. Rivals as shipped run without it. Only
    ours asks for deterministic algorithms.
    """

    trainer: Trainer
    tuned: bool

    @property
    def name(self) -> str:
        return self.trainer.name + ("" if self.tuned else ", as shipped")

    def enter(self) -> None:
        torch.use_deterministic_algorithms(self.trainer.owner == OURS)
        set_buffers(self.tuned)


def set_buffers(tuned: bool) -> None:
    """Let glibc keep large buffers as our trainer does, or give them back as it does by itself."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    if tuned:
        keep_large_buffers()
    else:
        for parameter, value in GLIBC_DEFAULTS:
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def timed(work: Callable[[], Any]) -> Seconds:
    """Wall and CPU seconds (of all threads of this process) of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


class Rounds:
    """The trainers and how far each is on the one stream of rows; `losses` and `seconds` grow on the way."""

    def __init__(self, lanes: Sequence[Lane], rows: Rows) -> None:
        self.lanes, self.rows = lanes, rows
        self.trainers = list({lane.trainer.name: lane.trainer for lane in lanes}.values())
        self.losses: dict[str, list[float]] = {trainer.name: [] for trainer in self.trainers}
        self.seconds: dict[str, list[Seconds]] = {lane.name: [] for lane in lanes}
        self.gemm: dict[str, list[Seconds]] = {lane.trainer.precision: [] for lane in lanes}
        self._rng = random.Random(0)

    def advance(self, steps: int) -> None:
        """Bring every trainer to this many steps, untimed."""
        for _ in range(steps):
            for trainer in self.trainers:
                if len(self.losses[trainer.name]) < steps:
                    Lane(trainer, tuned=True).enter()
                    self._step(trainer)

    def run(self) -> None:
        """One round: each lane makes a step that is not timed (caches and buffers become its own), then one that is."""
        for precision, seconds in self.gemm.items():
            seconds.append(probe(precision))
        for lane in self._rng.sample(list(self.lanes), len(self.lanes)):
            lane.enter()
            self._step(lane.trainer)
            self.seconds[lane.name].append(self._step(lane.trainer))

    def _step(self, trainer: Trainer) -> Seconds:
        losses = self.losses[trainer.name]
        rows, loss = self.rows(len(losses)), []
        gc.collect()
        seconds = timed(lambda: loss.append(trainer.step(rows)))
        losses.append(loss[0].item())
        return seconds


def probe(precision: str) -> Seconds:
    """Seconds of a product of two square matrices of GEMM rows."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = torch.randn(2, GEMM, GEMM).to(dtype)
    out = torch.empty_like(a)
    repeats = 4
    torch.mm(a, b, out=out)
    seconds = timed(lambda: [torch.mm(a, b, out=out) for _ in range(repeats)])
    return Seconds(*(value / repeats for value in seconds))


def gemm_flops() -> int:
    """Floating point operations of the probe's product."""
    return 2 * GEMM**3


def ratio(over: Sequence[Seconds], under: Sequence[Seconds], factor: float = 1.0) -> dict[str, Any]:
    """`factor` times the ratio of two lanes, round by round: median, min and max, of CPU and of wall seconds."""
    result: dict[str, Any] = {}
    for kind in Seconds._fields:
        each = [factor * getattr(a, kind) / getattr(b, kind) for a, b in zip(over, under, strict=True)]
        result[kind] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
    return result


def median_cpu(seconds: Sequence[Seconds]) -> float:
    """The median of the CPU seconds."""
    return statistics.median(each.cpu for each in seconds)


def unequal(rounds: Rounds, vocab_size: int) -> list[str]:
    """What speaks against equal work: sizes, a first loss far from ln V, or a fall that is not like the others'."""
    size, losses = rounds.trainers[0].parameters, rounds.losses
    falls = {name: curve[0] - curve[PROOF - 1] for name, curve in losses.items()}
    typical = statistics.median(falls.values())
    problems = [
        f"{trainer.name}: {trainer.parameters:,} parameters, ours has {size:,}"
        for trainer in rounds.trainers
        if abs(trainer.parameters / size - 1) > 0.01
    ]
    for name, curve in losses.items():
        if abs(curve[0] - math.log(vocab_size)) > 0.5:
            problems.append(f"{name}: first loss {curve[0]:.3f}, ln V is {math.log(vocab_size):.3f}")
        if not 0.75 * typical < falls[name] < 1.33 * typical:
            problems.append(f"{name}: fell by {falls[name]:.3f} in {PROOF} steps, the median is {typical:.3f}")
    return problems
