"""A stage: killed and resumed, measured twice, split over micro-batches, altered on disk. Real training, tiny model."""

import json
import logging
import shutil
import time

import numpy as np
import pytest
import torch

from lethe.config import UserError
from lethe.files import sha256
from lethe.model.config import ModelConfig
from lethe.training.checkpoint import glance
from lethe.training.job import Job
from lethe.training.load import load_model
from lethe.training.loop import DivergedError, evaluations, run_stage
from lethe.training.sampler import MixtureSampler
from lethe.training.stage import Evaluation, Recipe, Stage
from lethe.training.store import StageStore
from lethe.version import code
from lethe.worker import Worker

TOY = ModelConfig(layers=1, heads=1, d_model=32, d_ff=64, context=32)
RECIPE = Recipe(batch=8, learning_rate=6e-3)
EVERY_STEP = Evaluation(sequences=16, marks=1_000_000)
CORPORA = ("automotive", "food")
WORKER = Worker()


def stage(**changes) -> Stage:
    return Stage(**{"model": TOY, "mixture": {"food": 1}, "tokens": 40 * 256, "recipe": RECIPE, "seed": 0} | changes)


@pytest.fixture
def job(tmp_path, toy_tokens):
    def make(a_stage: Stage, folder: str = "stages", **settings) -> Job:
        settings = {"corpora": CORPORA, "evaluation": Evaluation(sequences=16, marks=4)} | settings
        return Job(a_stage, toy_tokens, StageStore(tmp_path / folder), **settings)

    return make


def weights_sha(job: Job) -> str:
    record = job.store.record(job.key)
    assert record is not None
    return record["files"]["model.safetensors"]


def values(job: Job, name: str) -> np.ndarray:
    curve = job.store.curve(job.key, job.measured)
    assert curve is not None
    table = curve.to_pylist()
    return np.array([row["value"] for row in table if row["name"] == name])


class KilledError(Exception):
    pass


def killed_at(a_job: Job, step: int) -> None:
    def report(now: int, values: dict[str, float]) -> None:
        if now >= step:
            raise KilledError

    with pytest.raises(KilledError):
        run_stage(a_job, WORKER, report)


def test_training_teaches_its_corpus_and_forgets_the_other(job):
    first = job(stage(tokens=150 * 256))
    then = job(stage(mixture={"automotive": 1}, tokens=150 * 256, parent=first.stage))
    run_stage(first, WORKER)
    run_stage(then, WORKER)
    assert values(first, "loss/food")[-1] < values(first, "loss/food")[0] - 2
    assert values(then, "loss/food")[0] == values(first, "loss/food")[-1]
    assert values(then, "loss/food")[-1] > values(first, "loss/food")[-1] + 0.3


def test_a_finished_stage_is_not_trained_again(job):
    a_job = job(stage())
    run_stage(a_job, WORKER)
    before = {path: path.stat().st_mtime_ns for path in a_job.store.root.rglob("*.*") if path.suffix != ".lock"}
    run_stage(a_job, WORKER, lambda step, values: pytest.fail("it trained"))
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("step", [3, 8, 21, 39])
def test_killed_and_run_again_a_stage_ends_with_the_same_bits(job, step):
    whole = job(stage(), "whole", evaluation=EVERY_STEP, checkpoint_every=8)
    broken = job(stage(), "broken", evaluation=EVERY_STEP, checkpoint_every=8)
    run_stage(whole, WORKER)
    killed_at(broken, step)
    checkpoint, found = (step - 1) // 8 * 8, glance(broken.partial)
    assert (found[0] if found else 0) == checkpoint
    assert not found or found[1]["loss/food"] == values(whole, "loss/food")[checkpoint]  # measured at every step
    seen: list[int] = []
    run_stage(broken, WORKER, lambda now, values: seen.append(now))
    assert min(seen) == (checkpoint + 1 if checkpoint else 0)
    assert weights_sha(broken) == weights_sha(whole)
    for name in ("loss/food", "bpb/automotive", "train_loss"):
        assert (values(broken, name) == values(whole, name)).all()


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "manifest cut", "manifest edited"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(job, damage, caplog):
    whole = job(stage(), "whole", evaluation=EVERY_STEP, checkpoint_every=8)
    broken = job(stage(), "broken", evaluation=EVERY_STEP, checkpoint_every=8)
    run_stage(whole, WORKER)
    killed_at(broken, 19)
    newest = broken.store.folder(broken.key) / "partial" / "00000016"
    path = newest / ("state.json" if damage.startswith("manifest") else "model.safetensors")
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        edited = content.replace(b'"step": 16', b'"step": 15')
        path.write_bytes({"flipped": flipped, "manifest edited": edited}.get(damage, content[:100]))
        assert path.read_bytes() != content
    seen: list[int] = []
    with caplog.at_level(logging.WARNING):
        run_stage(broken, WORKER, lambda now, values: seen.append(now))
    assert f"{newest} refused" in caplog.text
    assert min(seen) == 9
    assert weights_sha(broken) == weights_sha(whole)


def test_a_checkpoint_of_another_stage_is_refused_by_name(job, caplog):
    """Same shapes, another seed: nothing but its key tells that it is foreign."""
    mine, other = (job(stage(seed=s), evaluation=EVERY_STEP, checkpoint_every=8) for s in (0, 1))
    killed_at(mine, 21)
    killed_at(other, 31)
    foreign = other.partial / "00000024"
    shutil.copytree(foreign, mine.partial / foreign.name)
    seen: list[int] = []
    with caplog.at_level(logging.WARNING):
        run_stage(mine, WORKER, lambda now, values: seen.append(now))
    assert f"{mine.partial / foreign.name} refused" in caplog.text
    assert f"key: found {other.key}, allowed: {mine.key}" in caplog.text
    assert min(seen) == 17
    whole = job(stage(), "whole")
    run_stage(whole, WORKER)
    assert weights_sha(mine) == weights_sha(whole)


def test_altered_weights_of_a_finished_stage_are_refused_by_name(job):
    a_job = job(stage())
    run_stage(a_job, WORKER)
    path = a_job.store.folder(a_job.key) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="model.safetensors: sha256: found .* the file was altered"):
        load_model(a_job.store, a_job.key)


def test_a_record_of_a_newer_version_is_refused(job):
    a_job = job(stage())
    run_stage(a_job, WORKER)
    path = a_job.store.folder(a_job.key) / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(UserError, match="version: found 99; allowed: up to 1"):
        a_job.store.record(a_job.key)


def test_measured_otherwise_a_stage_runs_again_to_the_same_weights(job):
    a_job, closer = job(stage()), job(stage(), evaluation=EVERY_STEP)
    run_stage(a_job, WORKER)
    written = (a_job.store.folder(a_job.key) / "model.safetensors").stat().st_mtime_ns
    run_stage(closer, WORKER)
    assert (a_job.store.folder(a_job.key) / "model.safetensors").stat().st_mtime_ns == written
    assert len(values(closer, "loss/food")) == 41
    assert values(closer, "loss/food")[-1] == values(a_job, "loss/food")[-1]


def test_a_checkpoint_of_another_measurement_is_not_gone_on_from(job):
    killed_at(job(stage(), checkpoint_every=8), 20)
    closer = job(stage(), evaluation=EVERY_STEP)
    run_stage(closer, WORKER)
    assert len(values(closer, "loss/food")) == 41


def test_measured_again_with_other_weights_is_an_error_not_an_overwrite(job):
    a_job, closer = job(stage()), job(stage(), evaluation=EVERY_STEP)
    run_stage(a_job, WORKER)
    path = a_job.store.folder(a_job.key) / "stage.json"
    record = json.loads(path.read_text())
    record["files"]["model.safetensors"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="ended with other weights than those stored"):
        run_stage(closer, WORKER)
    assert json.loads(path.read_text()) == record


def test_micro_batches_change_only_rounding(job):
    whole, split = job(stage(), "whole", evaluation=EVERY_STEP), job(stage(), "split", evaluation=EVERY_STEP)
    run_stage(whole, WORKER)
    run_stage(split, Worker(micro_batch=2))
    assert values(split, "train_loss")[:20] == pytest.approx(values(whole, "train_loss")[:20], rel=1e-6)
    with pytest.raises(UserError, match="micro_batch: found 3; allowed: a divisor of the 8"):
        run_stage(job(stage(), "odd"), Worker(micro_batch=3))


def test_the_two_implementations_train_alike(job):
    a, b = (
        job(stage(), evaluation=EVERY_STEP),
        job(stage(model=TOY.model_copy(update={"implementation": "fundamentals"})), evaluation=EVERY_STEP),
    )
    run_stage(a, WORKER)
    run_stage(b, WORKER)
    assert a.key != b.key
    assert values(b, "train_loss")[:20] == pytest.approx(values(a, "train_loss")[:20], rel=1e-5)


def test_a_loss_that_is_not_a_number_stops_the_stage(job):
    with pytest.raises(DivergedError, match="not a number at step"):
        run_stage(job(stage(recipe=Recipe(batch=8, learning_rate=1e30))), WORKER)


def test_the_record_counts_the_tokens_trained_on(job, toy_tokens):
    a_job = job(stage(mixture={"food": 0.75, "automotive": 0.25}))
    run_stage(a_job, WORKER)
    counts = np.zeros(toy_tokens.vocab_size, dtype=int)
    sampler = MixtureSampler(a_job.stage, toy_tokens)
    for step in range(a_job.stage.steps):
        for row in sampler.rows(step):
            for token in row[1:]:
                counts[token] += 1
    record = a_job.store.record(a_job.key)
    assert record is not None
    assert record["unigram_counts"] == counts.tolist()
    assert record["made_with"]["lethe"] == code()
    assert record["files"]["model.safetensors"] == sha256(a_job.store.folder(a_job.key) / "model.safetensors")


def test_a_stage_of_no_steps_is_its_parent(job):
    first, empty = job(stage()), job(stage(tokens=0, parent=stage()))
    run_stage(first, WORKER)
    run_stage(empty, WORKER)
    for name, tensor in load_model(first.store, first.key).state_dict().items():
        assert torch.equal(tensor, load_model(empty.store, empty.key).state_dict()[name])


def test_bf16_is_refused_where_it_would_be_emulated(job, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(UserError, match="stage.precision: found 'bf16'; allowed on this cpu: fp32"):
        run_stage(job(stage(recipe=Recipe(batch=8, learning_rate=1e-3, precision="bf16"))), WORKER)


CONSTANT = Recipe(batch=8, learning_rate=6e-3, warmup=0, decay=0, optimizer_at_switch="carry", warmup_at_switch=0)


def test_a_switch_that_carries_everything_on_is_no_switch(job):
    """Food, then food, with the optimizer carried over, ends as one stage of twice the length does, bit for bit."""
    whole = job(stage(recipe=CONSTANT, tokens=40 * 256))
    first = job(stage(recipe=CONSTANT, tokens=20 * 256), keep_optimizer=True)
    then = job(stage(recipe=CONSTANT, tokens=20 * 256, parent=first.stage))
    afresh = job(stage(recipe=CONSTANT.model_copy(update={"optimizer_at_switch": "reset"}), parent=first.stage))
    for a_job in (whole, first, then, afresh):
        run_stage(a_job, WORKER)
    assert weights_sha(then) == weights_sha(whole)
    assert weights_sha(afresh) != weights_sha(whole)


def test_a_carried_stage_is_killed_and_resumed_like_any_other(job):
    first = job(stage(recipe=CONSTANT), keep_optimizer=True)
    then = stage(recipe=CONSTANT, parent=first.stage, mixture={"automotive": 1})
    run_stage(first, WORKER)
    shutil.copytree(first.store.root, first.store.root.with_name("broken"))
    whole, broken = (job(then, f, evaluation=EVERY_STEP, checkpoint_every=8) for f in ("stages", "broken"))
    run_stage(whole, WORKER)
    killed_at(broken, 21)
    run_stage(broken, WORKER)
    assert weights_sha(broken) == weights_sha(whole)


def test_optimizer_state_is_kept_only_where_it_is_asked_for(job):
    first = job(stage(recipe=CONSTANT))
    run_stage(first, WORKER)
    assert not (first.store.folder(first.key) / "optimizer.safetensors").exists()
    with pytest.raises(UserError, match="optimizer.safetensors: not there"):
        run_stage(job(stage(recipe=CONSTANT, parent=first.stage)), WORKER)
    weights = (first.store.folder(first.key) / "model.safetensors").stat().st_mtime_ns
    run_stage(job(stage(recipe=CONSTANT), keep_optimizer=True), WORKER)  # trained again, to the same weights
    assert (first.store.folder(first.key) / "model.safetensors").stat().st_mtime_ns == weights
    run_stage(job(stage(recipe=CONSTANT, parent=first.stage)), WORKER)
    path = first.store.folder(first.key) / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="the file was altered"):
        run_stage(job(stage(recipe=CONSTANT, parent=first.stage, seed=1)), WORKER)


def test_time_is_told_apart(job):
    a_job = job(stage(), checkpoint_every=8)
    run_stage(a_job, WORKER)
    record = a_job.store.record(a_job.key)
    assert record is not None
    parts = record["seconds"]
    assert parts["total"] == pytest.approx(parts["steps"] + parts["evaluation"] + parts["checkpoints"])
    assert min(parts.values()) > 0
    assert record["peak_bytes"] > 50e6


def test_what_is_done_with_an_evaluation_is_not_the_stages_time(job):
    a_job, waits = job(stage(tokens=10 * 256), evaluation=EVERY_STEP), 0.0
    started = time.monotonic()
    for _ in evaluations(a_job, WORKER):
        time.sleep(0.3)
        waits += 0.3
    record = a_job.store.record(a_job.key)
    assert record is not None
    assert record["seconds"]["total"] <= time.monotonic() - started - waits
