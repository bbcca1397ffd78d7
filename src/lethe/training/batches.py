"""The rows of each step, read ahead in a thread while the step before it is computed."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from lethe.config import UserError
from lethe.training.sampler import MixtureSampler
from lethe.worker import Worker


def passes(batch: int, worker: Worker) -> int:
    """Forward passes in which a rank takes its share of a step of `batch` rows."""
    rows = batch // worker.world
    return rows // min(worker.micro_batch or rows, rows)


class Batches:
    """This rank's share of every step's rows, as tensors on the device."""

    def __init__(self, sampler: MixtureSampler, worker: Worker) -> None:
        self.sampler, self.worker = sampler, worker
        self.rows = sampler.stage.recipe.batch // worker.world
        self.micro_batch = min(worker.micro_batch or self.rows, self.rows)
        if self.rows % self.micro_batch:
            raise UserError(
                f"micro_batch: found {self.micro_batch}; allowed: a divisor of the {self.rows} sequences of a rank"
            )
        self._reader = ThreadPoolExecutor(1, "lethe-read-ahead")
        self._ahead: tuple[int, Future[Tensor]] | None = None

    def micro_batches(self, step: int, extra: np.ndarray | None) -> list[Tensor]:
        """The step's micro-batches: int64 [micro_batch + n, context + 1] each, its share n of the `extra` rows last."""
        rows = self._ahead[1] if self._ahead and self._ahead[0] == step else self._reader.submit(self._read, step)
        self._ahead = step + 1, self._reader.submit(self._read, step + 1)
        pieces = rows.result().split(self.micro_batch)
        if extra is not None:
            beside = np.array_split(extra, len(pieces))
            pieces = tuple(torch.cat([own, torch.from_numpy(more)]) for own, more in zip(pieces, beside, strict=True))
        return [piece.to(self.worker.device, non_blocking=True) for piece in pieces]

    def _read(self, step: int) -> Tensor:
        rows = torch.from_numpy(self.sampler.rows(step, self.worker.rank, self.worker.world))
        return rows.pin_memory() if self.worker.device.startswith("cuda") else rows
