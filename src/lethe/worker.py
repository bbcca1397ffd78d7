"""The process a stage runs in, and the few things that ranks say to each other. With one rank all are no-ops."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Worker:
    """Injected into a stage, which never asks Ray. The process group of a `world` above 1 exists already."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    threads: int = 1
    micro_batch: int | None = None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def agree(self, value: bool) -> bool:
        """What rank 0 says."""
        flag = torch.tensor(int(value), device=self.device)
        if self.world > 1:
            dist.broadcast(flag, src=0)
        return bool(flag.item())


@contextmanager
def process_group(worker: Worker) -> Iterator[None]:
    """The group of the ranks that torchrun started, joined and left again; nothing with one rank."""
    if worker.world > 1:
        dist.init_process_group("nccl" if worker.device.startswith("cuda") else "gloo")
    yield
    if worker.world > 1:
        last = dist.barrier(async_op=True)
        last.wait()
        _LEFT.append(last)
        dist.destroy_process_group()


# A thread of gloo lets go of a collective's tensors after those who waited for it went on, and needs the interpreter's
# lock to do so; where the interpreter ends at that moment, the process aborts. What is held here, and the collective
# that it waited for, is let go by the main thread instead.
_LEFT: list[dist.Work] = []
