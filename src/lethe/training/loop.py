"""Train one stage: the loop, and what is remembered so that it can be killed at any step.

A stage runs the same alone, under torchrun, in a trial's process and under Ray Train: whoever calls `run_stage` says
which rank of how many it is, and what to do with an evaluation.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from lethe.evaluation.losses import evaluate, held_out_rows
from lethe.evaluation.mine import make_probes, read_probes
from lethe.evaluation.probes import Probes
from lethe.interventions.interface import Switch
from lethe.training import checkpoint, monitors
from lethe.training.batches import Batches
from lethe.training.job import Job, fingerprints
from lethe.training.load import fresh_model
from lethe.training.machine import peak_bytes, prepare, processor
from lethe.training.optimizer import learning_rate, load_optimizer_tensors, make_optimizer, optimizer_tensors
from lethe.training.sampler import MixtureSampler
from lethe.training.store import SPENT
from lethe.version import code
from lethe.worker import Worker

Report = Callable[[int, dict[str, float]], None]


class DivergedError(Exception):
    """The loss is no longer a number; training again would give the same."""


def run_stage(job: Job, worker: Worker, report: Report = lambda step, values: None) -> None:
    """Train the stage unless the store has it; goes on from its newest checkpoint.

    `report(step, values)` is called on rank 0 after every evaluation. Raises DivergedError, and UserError for data that
    cannot serve. With several ranks all of them call this.
    """
    for step, values in evaluations(job, worker):
        if worker.leads:
            report(step, values)


def evaluations(job: Job, worker: Worker) -> Iterator[tuple[int, dict[str, float]]]:
    """The same as an iterator: it trains on as it is asked for the next evaluation."""
    with job.store.own(job.key) if worker.leads else nullcontext():
        if not worker.agree(worker.leads and job.is_finished):
            yield from Training(job, worker).run()
        elif worker.leads:
            job.store.send(job.key)  # whoever finished it may have been killed before


class NextTokenLoss(nn.Module):
    """A model and its loss as one module, so that they compile together and DDP sees one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, own: int) -> tuple[Tensor, Tensor]:
        """Mean loss of the first `own` rows of `ids` (int64 [B, T + 1]) in float32, and all logits [B, T, V]."""
        logits = self.model(ids[:, :-1])
        return F.cross_entropy(logits[:own].float().flatten(0, 1), ids[:own, 1:].flatten()), logits


class Training:
    """A stage in training on one rank."""

    def __init__(self, job: Job, worker: Worker) -> None:
        self.job, self.worker = job, worker
        self.stage, self.recipe = job.stage, job.stage.recipe
        self.device = prepare(worker, self.recipe)
        self.sampler = MixtureSampler(self.stage, job.data)
        self.batches = Batches(self.sampler, worker)
        self.held_out = {
            corpus: held_out_rows(job.data.split(corpus, "val"), self.stage.model.context, job.evaluation.sequences)
            for corpus in job.corpora
        }
        self.probes = None
        if asked := job.evaluation.probes:
            items = read_probes(make_probes(job.data, asked))
            self.probes = Probes(items, job.data, self.stage.model.context, worker)
        self.marks = frozenset(job.evaluation.steps(self.stage.steps))
        switch = Switch(self.stage, job.store, fingerprints(job.data), worker, job.data)
        self.intervention = self.stage.intervention.make(switch)
        self.monitors = monitors.of_stage(switch) if job.evaluation.monitors else None
        self.state = checkpoint.State(job.key, job.measured)
        self._begin()
        self._resume()

    def _begin(self) -> None:
        """The model at the switch, with its optimizer."""
        job, parent = self.job, self.stage.parent
        model = job.load(parent) if parent else fresh_model(self.stage, job.data.vocab_size)
        self.model = self.intervention.at_switch(model.to(self.device))
        self.optimizer = make_optimizer(self.model, self.recipe, self.intervention.learning_rates(self.model))
        self.trainable = any(parameter.requires_grad for parameter in self.model.parameters())
        if parent and self.stage.carries:
            load_optimizer_tensors(self.optimizer, job.store.optimizer(job.key_of(parent)))
        self.forward = self._wrap(NextTokenLoss(self.model))

    def _wrap(self, module: nn.Module) -> nn.Module:
        """The module as a step calls it: compiled inside, data-parallel outside."""
        if self.recipe.compile:
            module.compile(dynamic=False)
        if self.worker.world == 1 or not self.trainable:
            return module
        at_once = self.batches.micro_batch == self.batches.rows  # a static graph breaks under no_sync
        return DistributedDataParallel(module, gradient_as_bucket_view=True, static_graph=at_once)

    def run(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Train to the end, measuring and saving on the way; then write the stage. Gives every evaluation."""
        state, every = self.state, self.job.checkpoint_every
        self.since = time.monotonic()
        if state.step == 0:
            yield from self._evaluation({})
        while state.step < self.stage.steps:
            loss = self.train_step()
            if self._rolls_back():
                yield from self._evaluation({})
            elif state.step in self.marks:
                yield from self._evaluation({"train_loss": loss})
            if state.step % every == 0 and 0 < state.step < self.stage.steps:
                self._checkpoint()
        if self.worker.leads:
            self._finish()
        self.worker.agree(True)  # no rank leaves before the stage is on disk

    def train_step(self) -> Tensor:
        """One optimizer step; returns this rank's loss on its rows of the batch, a scalar. Waits for no device."""
        step, steps = self.state.step, self.stage.steps
        rate = self.intervention.rate(step, learning_rate(self.recipe, step, steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        loss = self._backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.intervention.after_step(self.model, rate)
        self.state.step += 1
        return loss

    def _backward(self) -> Tensor:
        """Accumulate the gradient of the mean loss over this rank's rows (and what the intervention adds to it)."""
        extra = self.intervention.extra_rows(self.state.step)
        micro_batches, own = self.batches.micro_batches(self.state.step, extra), self.batches.micro_batch
        total = torch.zeros((), device=self.device)
        for i, ids in enumerate(micro_batches, start=1):
            in_step = i == len(micro_batches) or not isinstance(self.forward, DistributedDataParallel)
            with nullcontext() if in_step else self.forward.no_sync():  # type: ignore[operator]
                with torch.autocast(self.device.type, torch.bfloat16, self.recipe.precision == "bf16"):
                    loss, logits = self.forward(ids, own)
                penalty = self.intervention.penalty(logits, ids, len(ids) - own)
                del logits  # large, and not needed any more
                if self.trainable:
                    ((loss if penalty is None else loss + penalty) / len(micro_batches)).backward()
            total += loss.detach() / len(micro_batches)
        return total

    def _evaluation(self, losses: dict[str, Tensor]) -> Iterator[tuple[int, dict[str, float]]]:
        yield self.state.step, self._measure(losses)
        self.since = time.monotonic()  # what was done with it is not the stage's time

    def _measure(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """Evaluate and remember; `losses` are this rank's, to be averaged over the ranks.

        Raises DivergedError rather than go on with what is not a number.
        """
        state = self.state
        self._lap("steps")
        if state.step == self.stage.steps:
            self.intervention.at_end(self.model)
        values = evaluate(self.model, self.held_out, self.job.data.byte_lengths, self.worker)
        if self.probes:
            values |= self.probes.measure(self.model)
        if self.monitors:
            values |= self.monitors.measure(self.model)
        values |= {name: self.worker.sum(loss.double()).item() / self.worker.world for name, loss in losses.items()}
        self._lap("evaluation")
        if not all(np.isfinite(value) for value in values.values()):
            raise DivergedError(f"the loss is not a number at step {state.step} of {self.stage.steps}: {values}")
        self._note(values)
        return values

    def _note(self, values: dict[str, float]) -> None:
        """Write values of now into the curve."""
        state = self.state
        tokens, seconds = state.step * self.stage.tokens_per_step, sum(state.seconds.values())
        state.curve += [(state.step, tokens, seconds, name, value) for name, value in values.items()]

    def _rolls_back(self) -> bool:
        """Let the intervention read the model, and begin anew if it asks for that: what was measured is set apart."""
        state = self.state
        if not (read := self.intervention.watch(self.model, state.step)):
            return False
        self._lap("steps")
        self._note(read)
        if not self.intervention.rolls_back(read):
            return False
        state.curve = [(*point, f"{SPENT}{name}", value) for *point, name, value in state.curve]
        state.spent, state.step = state.step, 0
        self._begin()
        self._checkpoint()  # a later one must not be taken for a step of the first run
        return True

    def _lap(self, part: str) -> None:
        """Add the time since the last lap to `part`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.monotonic()
        self.state.seconds[part] += now - self.since
        self.since = now

    def _checkpoint(self) -> None:
        self._lap("steps")
        if self.worker.leads:
            tensors = {
                "model": self.intervention.tensors(self.model),
                "optimizer": optimizer_tensors(self.optimizer),
                "intervention": self.intervention.state(),
            }
            checkpoint.save(self.job.partial, self.state, tensors)
            self.job.store.send(self.job.key)
        self._lap("checkpoints")

    def _resume(self) -> None:
        self.job.fetch()
        found = checkpoint.latest(self.job.partial, self.job.key)
        if found and found[0].measured == self.job.measured:  # else the curve's first part would be another's
            self.state, tensors = found
            self.intervention.restore(tensors.get("intervention", {}))
            if self.state.spent:
                self._begin()
            self.model.load_state_dict(tensors["model"], strict=not self.intervention.reshapes)
            load_optimizer_tensors(self.optimizer, tensors.get("optimizer", {}))

    def _finish(self) -> None:
        job, seconds = self.job, self.state.seconds
        job.store.write_curve(job.key, job.measured, self.state.curve)
        if job.keep_optimizer:
            job.store.write_optimizer(job.key, optimizer_tensors(self.optimizer))
        record = {
            "stage": self.stage.model_dump(mode="json"),
            "data": fingerprints(job.data),
            "tokens_folder": job.data.root.name,
            "vocab_size": job.data.vocab_size,
            "unigram_counts": MixtureSampler(self.stage.trained, job.data).unigram_counts().tolist(),
            "spent_steps": self.state.spent,
            "intervention": self.intervention.record(),
            "seconds": seconds | {"total": sum(seconds.values())},
            "peak_bytes": peak_bytes(self.device),
            "made_with": {
                "lethe": code(),
                "torch": torch.__version__,
                "processor": processor(self.device),
                "ranks": self.worker.world,
                "threads": self.worker.threads,
                "micro_batch": self.batches.micro_batch,
            },
        }
        job.store.finish(job.key, record, self.intervention.tensors(self.model))
