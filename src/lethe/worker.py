"""The process a stage runs in, and the few things that ranks say to each other. With one rank all are no-ops."""

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
