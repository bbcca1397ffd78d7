"""What interventions derive from a stage, against brute force, numpy and the shards themselves."""

import numpy as np
import pytest
import torch
from torch import nn

from lethe.interventions.derived import (
    Pool,
    buffer,
    diagonal_fisher,
    fisher,
    second_moments,
    seen_counts,
    seen_rows,
    self_samples,
)
from lethe.interventions.gpm import projection
from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.worker import Worker

SMALL = ModelConfig(layers=1, heads=1, d_model=8, d_ff=8, context=4)


def small() -> nn.Module:
    model = build_model(SMALL, 12)
    initialise(model, 0)
    return model


def exact_fisher(model: nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """By the definition: over every position and every label, p(label) (d log p(label))^2; mean over tokens."""
    named = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    for row in ids:
        for position in range(len(row)):
            for label in range(12):
                log_p = model(row[None])[0, position].log_softmax(-1)[label]
                gradients = torch.autograd.grad(log_p, list(named.values()))
                for name, gradient in zip(named, gradients, strict=True):
                    total[name] += log_p.exp().detach() * gradient**2
    return {name: value / ids.numel() for name, value in total.items()}


def test_the_fisher_is_that_of_its_definition():
    model, ids = small(), torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    estimate = diagonal_fisher(model, ids.repeat(3000, 1), torch.Generator().manual_seed(0))
    exact = exact_fisher(model, ids)
    for name, value in exact.items():
        assert estimate[name].sum().item() == pytest.approx(value.sum().item(), rel=0.03)
        spread = value.sqrt().max() * 0.03
        torch.testing.assert_close(estimate[name].sqrt(), value.sqrt(), rtol=0.1, atol=spread.item())


def test_second_moments_are_those_of_the_inputs():
    model, ids = small(), torch.randint(0, 12, (6, 4), generator=torch.Generator().manual_seed(0))
    moments = second_moments(model, ids.split(4))  # type: ignore[arg-type]
    matrices = {name for name, parameter in model.named_parameters() if parameter.dim() == 2}
    assert moments.keys() == matrices
    with torch.no_grad():
        block = model.blocks[0]
        x = model.embedding(ids)
        normed = block.attention_norm(x).flatten(0, 1).double().numpy()
        end = x + block.attention(block.attention_norm(x), rotation(ids))
        end = model.norm(end + block.ffn(block.ffn_norm(end))).flatten(0, 1).double().numpy()
    np.testing.assert_allclose(moments["blocks.0.attention.qkv.weight"], normed.T @ normed, rtol=1e-5)
    np.testing.assert_allclose(moments["embedding.weight"], end.T @ end, rtol=1e-5, atol=1e-6)


def rotation(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from lethe.model.transformer import rotary_tables

    return rotary_tables(torch.arange(ids.shape[1], dtype=torch.float32), 8, 10000.0)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_the_projection_is_onto_the_fewest_singular_vectors_that_hold_the_share(share):
    x = np.random.default_rng(0).normal(size=(50, 7)) @ np.diag([9, 5, 3, 1, 0.5, 0.2, 0.1])
    _, values, vectors = np.linalg.svd(x, full_matrices=False)
    held = np.cumsum(values**2) / np.sum(values**2)
    kept = vectors[: next(k for k in range(1, 8) if held[k - 1] >= share)]
    found = projection(torch.from_numpy(x.T @ x).float(), share).numpy()
    np.testing.assert_allclose(found, kept.T @ kept, atol=1e-4)


def test_seen_counts_and_rows_are_those_of_all_stages_before(lab):
    second = lab.after_food()
    third = lab.stage(changes={"mixture": {"food": 1}, "parent": second})
    lab.run(second)
    switch = lab.switch(third)
    record = lab.store.record(lab.job(lab.food).key), lab.store.record(lab.job(second).key)
    expected = np.array(record[0]["unigram_counts"]) + np.array(record[1]["unigram_counts"])
    assert (seen_counts(switch) == expected).all()
    assert expected.sum() == 2 * 40 * 256
    rows = seen_rows(switch, 8).numpy()
    assert rows.shape == (8, 33)
    splits = {corpus: lab.data.split(corpus, "train") for corpus in ("food", "automotive")}
    of = {name: {tuple(row) for row in s.read(np.arange(s.windows(32)), 32)} for name, s in splits.items()}
    assert all(tuple(row) in of["food"] for row in rows[:4])
    assert all(tuple(row) in of["automotive"] for row in rows[4:])


def test_all_rows_are_all_that_the_stage_read(lab):
    switch = lab.switch(lab.after_food())
    counts = np.bincount(seen_rows(switch, 40 * 8)[:, 1:].flatten(), minlength=lab.data.vocab_size)
    assert (counts == seen_counts(switch)).all()


def test_samples_begin_as_the_unigram_counts_say_and_follow_the_model(lab):
    switch = lab.switch(lab.after_food())
    rows, counts = self_samples(switch, 3000, "unigram"), seen_counts(switch)
    assert rows.shape == (3000, 33)
    shares = np.bincount(rows[:, 0], minlength=len(counts)) / 3000
    assert np.abs(shares - counts / counts.sum()).max() < 0.03
    model = lab.model(lab.food)
    start = int(counts.argmax())
    followers = rows[rows[:, 0] == start][:, 1]
    with torch.no_grad():
        expected = model(torch.tensor([[start]]))[0, 0].softmax(-1).numpy()
    drawn = np.bincount(followers, minlength=len(counts)) / len(followers)
    assert np.abs(drawn - expected).max() < 4 * np.sqrt(0.25 / len(followers))
    assert (self_samples(switch, 50, "eos")[:, 0] == 0).all()
    assert rows.max() < lab.data.byte_lengths.nonzero()[0].max() + 1


def test_what_is_derived_is_kept_and_comes_out_the_same_again(lab, own_lab):
    for kind in (lambda s: self_samples(s, 20, "unigram"), lambda s: buffer(s, 5), lambda s: fisher(s, 3)):
        one, two = kind(lab.switch(lab.after_food())), kind(own_lab.switch(own_lab.after_food()))
        tensors = [found.values() if isinstance(found, dict) else [found] for found in (one, two)]
        assert all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
    folders = sorted(path.name for path in (own_lab.store.root.parent / "artefacts").iterdir() if path.is_dir())
    assert len(folders) == 3
    assert folders == [
        n for n in sorted(p.name for p in (lab.store.root.parent / "artefacts").iterdir()) if n in folders
    ]


def test_a_pool_gives_each_row_as_often_as_the_others_and_ranks_share_a_step(lab):
    stage = lab.after_food()
    rows = torch.arange(5)[:, None].expand(5, 33)
    pool = Pool(rows, 0.25, lab.switch(stage))
    given = np.concatenate([pool.at(step)[:, 0] for step in range(5)])
    assert (np.bincount(given) == 2).all()
    both = [Pool(rows, 0.25, lab.switch(stage, Worker(rank, 2))) for rank in (0, 1)]
    for step in range(5):
        assert sorted([*both[0].at(step)[:, 0], *both[1].at(step)[:, 0]]) == sorted(pool.at(step)[:, 0])


@pytest.mark.parametrize(("world", "micro_batch"), [(1, None), (1, 2), (1, 1), (2, 4), (4, 1)])
def test_means_of_passes_and_ranks_make_the_mean_over_the_tokens(lab, world, micro_batch):
    pools = [
        Pool(torch.zeros(9, 33), 0.25, lab.switch(lab.after_food(), Worker(r, world, micro_batch=micro_batch)))
        for r in range(world)
    ]
    passes = 8 // world // (micro_batch or 8 // world)
    sums = [torch.tensor(32.0 * len(pool.at(3)) * 7) for pool in pools]  # each token's value is 7
    assert sum(pool.mean(total) for pool, total in zip(pools, sums, strict=True)) / passes / world == pytest.approx(7)
