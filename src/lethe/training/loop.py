"""Train one stage: the loop, and what is remembered so that it can be killed at any step.

A stage runs the same alone, under torchrun, in a trial's process and under Ray Train: whoever calls `run_stage` says
which rank of how many it is, and what to do with an evaluation.
"""

import os
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from lethe.config import UserError
from lethe.evaluation.losses import evaluate, held_out_rows
from lethe.files import fingerprint
from lethe.interventions.interface import Switch
from lethe.tokens.shards import TokenData
from lethe.training import checkpoint
from lethe.training.load import fresh_model, load_model
from lethe.training.optimizer import learning_rate, load_optimizer_tensors, make_optimizer, optimizer_tensors
from lethe.training.sampler import MixtureSampler
from lethe.training.stage import Evaluation, Stage
from lethe.training.store import StageStore
from lethe.worker import Worker

Report = Callable[[int, dict[str, float]], None]


class DivergedError(Exception):
    """The loss is no longer a number; training again would give the same."""


@dataclass(frozen=True)
class Job:
    """A stage, where its data and results lie, and what is measured on the way."""

    stage: Stage
    data: TokenData
    store: StageStore
    corpora: tuple[str, ...]
    evaluation: Evaluation = Evaluation()
    checkpoint_every: int = 100

    @property
    def key(self) -> str:
        return self.stage.key(fingerprints(self.data))

    @property
    def measured(self) -> str:
        """Fingerprint of what is measured: two stages with equal ones have comparable curves."""
        held_out = {corpus: self.data.split(corpus, "val").fingerprint for corpus in sorted(self.corpora)}
        return fingerprint({"held_out": held_out, "evaluation": self.evaluation.model_dump(mode="json")})


def fingerprints(data: TokenData) -> dict[str, str]:
    """What stage keys need to know of the data: a fingerprint for the tokenizer and for each corpus."""
    corpora = {corpus: data.split(corpus, "train").fingerprint for corpus in data.corpora}
    return corpora | {"tokenizer": data.tokenizer_fingerprint}


def run_stage(job: Job, worker: Worker, report: Report = lambda step, values: None) -> None:
    """Train the stage unless the store has it; goes on from its newest checkpoint.

    `report(step, values)` is called on rank 0 after every evaluation. Raises DivergedError, and UserError for data that
    cannot serve. With several ranks all of them call this.
    """
    with job.store.own(job.key) if worker.leads else nullcontext():
        if not worker.agree(worker.leads and job.store.has(job.key, job.measured)):
            _Training(job, worker, report).run()


class _Training:
    def __init__(self, job: Job, worker: Worker, report: Report) -> None:
        torch.set_num_threads(worker.threads)  # a warm process may have trained another stage before
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.job, self.worker, self.report = job, worker, report
        self.stage, self.device = job.stage, torch.device(worker.device)
        _check_precision(self.stage.recipe.precision, self.device)
        self.micro_batch = _micro_batch(self.stage.recipe.batch // worker.world, worker.micro_batch)
        self.sampler = MixtureSampler(self.stage, job.data)
        self.held_out = {
            corpus: held_out_rows(job.data.split(corpus, "val"), self.stage.model.context, job.evaluation.sequences)
            for corpus in job.corpora
        }
        self.marks = frozenset(job.evaluation.steps(self.stage.steps))
        self.intervention = self.stage.intervention.make(Switch(self.stage, self._load))
        parent = self.stage.parent
        model = self._load(parent) if parent else fresh_model(self.stage, job.data.vocab_size)
        self.model = self.intervention.at_switch(model.to(self.device))
        factors = self.intervention.learning_rates(self.model)
        self.optimizer = make_optimizer(self.model, self.stage.recipe, factors)
        self.step, self.seconds, self.curve = 0, 0.0, list[tuple[Any, ...]]()
        self._resume()
        self.started = time.monotonic() - self.seconds
        self.forward: nn.Module = self.model
        if worker.world > 1:
            self.forward = DistributedDataParallel(self.model, gradient_as_bucket_view=True)

    def run(self) -> None:
        if self.step == 0:
            self._measure(None)
        while self.step < self.stage.steps:
            loss = self._train_step()
            self.step += 1
            self._measure(loss)
            if self.step % self.job.checkpoint_every == 0 and self.step < self.stage.steps:
                self._checkpoint()
        if self.worker.leads:
            self._finish()
        self.worker.agree(True)  # no rank leaves before the stage is on disk

    def _measure(self, loss: Tensor | None) -> None:
        """Evaluate, remember and report, if that is due; `loss` is this rank's of the last step.

        Raises DivergedError rather than go on with what is not a number.
        """
        if self.step == self.stage.steps:
            self.intervention.at_end(self.model)
        if self.step not in self.marks:
            return
        values = evaluate(self.model, self.held_out, self.job.data.byte_lengths, self.worker)
        if loss is not None:
            values["train_loss"] = self.worker.sum(loss.double()).item() / self.worker.world
        if not all(np.isfinite(value) for value in values.values()):
            raise DivergedError(f"the loss is not a number at step {self.step} of {self.stage.steps}: {values}")
        tokens, self.seconds = self.step * self.stage.tokens_per_step, time.monotonic() - self.started
        self.curve += [(self.step, tokens, self.seconds, name, value) for name, value in values.items()]
        if self.worker.leads:
            self.report(self.step, values)

    def _train_step(self) -> Tensor:
        """One optimizer step; returns this rank's loss on its rows of the batch, a scalar."""
        rate = learning_rate(self.stage.recipe, self.step, self.stage.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        rows = self.sampler.rows(self.step)
        loss = self._backward(rows[self._share(len(rows))], self.intervention.extra_rows(self.step))
        nn.utils.clip_grad_norm_(self.model.parameters(), self.stage.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.intervention.after_step(self.model, rate)
        return loss

    def _share(self, rows: int) -> slice:
        each = rows // self.worker.world
        return slice(self.worker.rank * each, (self.worker.rank + 1) * each)

    def _backward(self, rows: np.ndarray, extra_rows: np.ndarray | None) -> Tensor:
        """Accumulate the gradient of the mean loss over the rows (and what the intervention adds to it)."""
        pieces = len(rows) // self.micro_batch
        extra = np.array_split(extra_rows if extra_rows is not None else rows[:0], pieces)
        total = torch.zeros((), device=self.device)
        for i, piece in enumerate(np.split(rows, pieces)):
            ids = torch.from_numpy(np.concatenate([piece, extra[i]])).to(self.device)
            last = i == pieces - 1
            with nullcontext() if last or self.worker.world == 1 else self.forward.no_sync():  # type: ignore[operator]
                with torch.autocast(self.device.type, torch.bfloat16, self.stage.recipe.precision == "bf16"):
                    logits = self.forward(ids[:, :-1])
                own = slice(len(piece))
                loss = F.cross_entropy(logits[own].float().flatten(0, 1), ids[own, 1:].flatten())
                penalty = self.intervention.penalty(logits, ids, len(extra[i]))
                ((loss if penalty is None else loss + penalty) / pieces).backward()
            total += loss.detach() / pieces
        return total

    def _checkpoint(self) -> None:
        if self.worker.leads:
            seconds = time.monotonic() - self.started
            state = {"seconds": seconds, "curve": self.curve, "measured": self.job.measured}
            tensors = self.intervention.tensors(self.model)
            checkpoint.save(self._partial, self.step, tensors, optimizer_tensors(self.optimizer), state)

    def _resume(self) -> None:
        found = checkpoint.latest(self._partial)
        if found and found[3]["measured"] == self.job.measured:  # else the curve's first part would be another's
            self.step, weights, optimizer, state = found
            self.model.load_state_dict(weights, strict=not self.intervention.reshapes)
            load_optimizer_tensors(self.optimizer, optimizer)
            self.seconds, self.curve = state["seconds"], [tuple(row) for row in state["curve"]]

    @property
    def _partial(self) -> Any:
        return self.job.store.folder(self.job.key) / "partial"

    def _finish(self) -> None:
        job, key = self.job, self.job.key
        job.store.write_curve(key, job.measured, self.curve)
        record = {
            "stage": self.stage.model_dump(mode="json"),
            "data": fingerprints(job.data),
            "tokens_folder": job.data.root.name,
            "vocab_size": job.data.vocab_size,
            "unigram_counts": self.sampler.unigram_counts().tolist(),
            "seconds": time.monotonic() - self.started,
            "made_with": {
                "torch": torch.__version__,
                "processor": _processor(self.device),
                "ranks": self.worker.world,
                "threads": self.worker.threads,
                "micro_batch": self.worker.micro_batch,
            },
        }
        job.store.finish(key, record, self.intervention.tensors(self.model))

    def _load(self, stage: Stage) -> nn.Module:
        return load_model(self.job.store, stage.key(fingerprints(self.job.data)))


def _micro_batch(rows: int, asked: int | None) -> int:
    micro_batch = min(asked or rows, rows)
    if rows % micro_batch:
        raise UserError(f"micro_batch: found {asked}; allowed: a divisor of the {rows} sequences of a rank")
    return micro_batch


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _check_precision(precision: str, device: torch.device) -> None:
    """Refuse bf16 where it would be emulated: 20 times slower, and no one would know why."""
    if precision == "fp32":
        return
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not able:
        raise UserError(f"stage.precision: found 'bf16'; allowed on this {device.type}: fp32 (it has no bf16 units)")
