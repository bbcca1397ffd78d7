"""Monitors against scipy and numpy in float64, one row at a time, and against what they must not change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from torch import nn

from lethe.config import UserError
from lethe.interventions.derived import GAUGE_BIT, gauge_rows, self_samples
from lethe.interventions.interface import Switch
from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.model.low_rank import add_low_rank, merge_low_rank
from lethe.model.routed import Routed
from lethe.model.shifted import Shifted
from lethe.model.transformer import TorchTransformer, rotary_tables
from lethe.tokens.shards import TokenData
from lethe.training import monitors
from lethe.training.job import Job, fingerprints
from lethe.training.loop import NextTokenLoss, run_stage
from lethe.training.monitors import Monitors, cka, hsic, main_corpus, of_stage
from lethe.training.stage import Evaluation, Recipe, Stage
from lethe.training.store import StageStore
from lethe.worker import Worker, process_group

VOCAB, CONTEXT = 50, 12
CONFIG = ModelConfig(layers=3, heads=2, d_model=16, context=CONTEXT)
ROWS = np.random.default_rng(0).integers(0, VOCAB, (2, 11, CONTEXT + 1))
NAMES = ["weight_distance"]
NAMES += [f"{name}/{layer}" for name in ("cka_self", "cka/food") for layer in (1, 2, 3)] + ["kl_self", "kl/food"]


def built(seed: int, implementation: str = "torch") -> nn.Module:
    model = build_model(CONFIG.model_copy(update={"implementation": implementation}), VOCAB)
    initialise(model, seed)
    for parameter in model.parameters():
        parameter.data *= 4  # far from uniform
    return model


def moved(teacher: nn.Module) -> nn.Module:
    """Another model, part of the way to a third."""
    model = built(0)
    for ours, theirs, other in zip(model.parameters(), teacher.parameters(), built(1).parameters(), strict=True):
        ours.data = torch.lerp(theirs.data, other.data, 0.3)
    return model


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return built(0).requires_grad_(False)


def measured(teacher: nn.Module, model: nn.Module, worker: Worker = Worker()) -> dict[str, float]:  # noqa: B008
    return Monitors(teacher, ROWS[0], ROWS[1], "food", worker).measure(model)


@torch.no_grad()
def divergence(teacher: nn.Module, model: nn.Module, rows: np.ndarray) -> float:
    """Mean KL over all places, in float64."""
    found = []
    for row in torch.from_numpy(rows[:, :-1]):
        p, q = (softmax(m(row[None])[0].double().numpy(), axis=-1) for m in (teacher, model))
        found.append(rel_entr(p, q).sum(axis=-1))
    return float(np.mean(found))


@torch.no_grad()
def states(model: TorchTransformer, rows: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    """After each block, walking through the model by hand: float64 [rows * places, D]."""
    x = model.embedding(torch.from_numpy(rows[:, :-1]))
    rotation = rotary_tables(torch.arange(float(CONTEXT)), CONFIG.d_model // CONFIG.heads, CONFIG.rope_theta)
    found = []
    for block in model.blocks:
        x = block(x, rotation)
        found.append(x[:, places].flatten(0, 1).double().numpy())
    return found


def similarity(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased CKA from n x n kernels, term by term as Song et al. 2012 write HSIC_1."""

    def hsic_1(k: np.ndarray, m: np.ndarray) -> float:
        n, one = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        third = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
        return float(np.trace(k @ m) + third) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return hsic_1(k, m) / np.sqrt(hsic_1(k, k) * hsic_1(m, m))


@pytest.mark.parametrize("at_most", [4096, 30])
def test_each_is_what_scipy_and_numpy_give(teacher, monkeypatch, at_most):
    monkeypatch.setattr(monitors, "CKA_TOKENS", at_most)  # 30 tokens of 11 rows: 2 places of each, 0 and 6
    model, places = moved(teacher), np.arange(CONTEXT) if at_most > 30 else np.array([0, 6])
    found = measured(teacher, model)
    assert sorted(found) == sorted(NAMES)
    for text, rows in (("self", ROWS[0]), ("food", ROWS[1])):
        name = "_self" if text == "self" else "/food"
        assert found[f"kl{name}"] == pytest.approx(divergence(teacher, model, rows), rel=1e-5)
        pairs = zip(states(teacher, rows, places), states(model, rows, places), strict=True)
        for layer, (x, y) in enumerate(pairs, start=1):
            assert found[f"cka{name}/{layer}"] == pytest.approx(similarity(x, y), abs=1e-5)
            assert found[f"cka{name}/{layer}"] < 0.99  # else the test would see nothing
    before, now = (
        np.concatenate([p.detach().double().numpy().ravel() for p in m.parameters()]) for m in (teacher, model)
    )
    assert found["weight_distance"] == pytest.approx(np.linalg.norm(now - before) / np.linalg.norm(before), rel=1e-6)


def test_at_the_switch_nothing_has_moved(teacher):
    found = measured(teacher, built(0))
    assert (found["kl_self"], found["kl/food"], found["weight_distance"]) == (0, 0, 0)
    assert [found[name] for name in NAMES if name.startswith("cka")] == pytest.approx([1] * 6, abs=1e-12)


def test_both_implementations_are_seen_alike(teacher):
    model, written_out = moved(teacher), built(0, "fundamentals")
    written_out.load_state_dict(model.state_dict())
    assert measured(teacher, written_out) == pytest.approx(measured(teacher, model), rel=1e-4)


def test_a_model_of_a_too_large_to_keep_is_asked_each_time_and_says_the_same(teacher, monkeypatch):
    kept = measured(teacher, moved(teacher))
    monkeypatch.setattr(monitors, "KEPT_BYTES", 0)
    gauge = Monitors(teacher, ROWS[0], ROWS[1], "food", Worker())
    assert gauge.measure(moved(teacher)) == kept
    assert gauge.measure(moved(teacher)) == kept


def test_a_wrapped_model_is_measured_by_its_own_outputs(teacher):
    wrapped = Shifted(built(0), VOCAB)
    wrapped.shift.copy_(torch.randn(VOCAB, generator=torch.Generator().manual_seed(0)))
    found = measured(teacher, wrapped)
    assert found["kl_self"] == pytest.approx(divergence(teacher, wrapped, ROWS[0]), rel=1e-5)
    assert found["kl_self"] > 0.1
    assert found["weight_distance"] == 0
    assert found["cka_self/3"] == pytest.approx(1, abs=1e-12)


def test_of_a_mixture_there_is_kl_alone(teacher):
    mixture = Routed(built(0), moved(teacher), "bayes", 0.9)
    found = measured(teacher, mixture)
    assert found.keys() == {"kl_self", "kl/food"}
    assert found["kl_self"] == pytest.approx(divergence(teacher, mixture, ROWS[0]), rel=1e-5)
    assert found["kl/food"] == pytest.approx(divergence(teacher, mixture, ROWS[1]), rel=1e-5)
    for after in (Routed(mixture, moved(teacher), "even", 0.9), built(1)):
        assert measured(mixture, after).keys() == {"kl_self", "kl/food"}
    assert measured(mixture, built(1))["kl_self"] == pytest.approx(divergence(mixture, built(1), ROWS[0]), rel=1e-5)


def test_a_low_rank_product_counts_before_it_is_merged(teacher):
    model = built(0)
    add_low_rank(model, 2, 1.0, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith("low_b"):
            parameter.data.fill_(0.05)
    found = measured(teacher, model)
    merge_low_rank(model)
    assert found == pytest.approx(measured(teacher, model), rel=1e-5)
    assert found["weight_distance"] > 0.01


def test_compiled_models_are_measured_and_not_compiled_again(teacher):
    from torch._dynamo.testing import CompileCounter

    counter, model = CompileCounter(), moved(teacher)
    expected, ids = measured(teacher, model), torch.from_numpy(ROWS[0])
    loss = NextTokenLoss(model)
    loss.compile(backend=counter, dynamic=False)
    before = loss(ids, 11)[0].item()
    frames = counter.frame_count
    assert frames > 0
    assert measured(teacher, model) == expected
    assert loss(ids, 11)[0].item() == before
    assert counter.frame_count == frames
    compiled = torch.compile(moved(teacher), backend="eager")
    compiled(ids[:, :-1])
    assert measured(teacher, compiled) == expected


def test_measuring_leaves_no_trace(teacher):
    model = moved(teacher)
    weights, drawn = {name: p.clone() for name, p in model.named_parameters()}, torch.get_rng_state()
    measured(teacher, model)
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.grad is None
        assert parameter.requires_grad
    assert not any(module._forward_hooks for module in (*model.modules(), *teacher.modules()))


def test_ranks_share_the_rows_and_give_what_one_gives(teacher, tmp_path):
    """Three of them, of eleven rows."""
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    command = [*ranks, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    shared = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert len(shared) == 3
    for values in shared:
        assert values == pytest.approx(measured(teacher, moved(teacher)), rel=1e-5)


def test_too_few_tokens_are_refused(teacher):
    with pytest.raises(UserError, match="evaluation.monitors: found 3 tokens; allowed: 4 or more"):
        Monitors(teacher, ROWS[0, :1, :4], ROWS[1], "food", Worker())


def of_arrays(x: np.ndarray, y: np.ndarray) -> float:
    a, b = (torch.from_numpy(z - z.mean(axis=0)) for z in (x, y))
    n = len(x)
    return cka(hsic(a, b, n, Worker()), hsic(a, a, n, Worker()), hsic(b, b, n, Worker()))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.integers(1, 12), st.integers(1, 12))
def test_cka_is_that_of_the_kernels_and_blind_to_rotation_scale_and_shift(seed, n, d, other):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, other))
    rotation = np.linalg.qr(rng.normal(size=(other, other)))[0]
    with np.errstate(invalid="ignore"):
        expected = similarity(x, y)
    assert of_arrays(x, y) == pytest.approx(expected if np.isfinite(expected) else 0, rel=1e-6, abs=1e-8)
    assert of_arrays(x, 3 * y @ rotation + 5) == pytest.approx(of_arrays(x, y), rel=1e-6, abs=1e-6)


def test_cka_of_unlike_states_is_near_0_though_they_have_as_many_features_as_tokens():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 300, 300))
    centred_x, centred_y = x - x.mean(axis=0), y - y.mean(axis=0)
    plain = np.linalg.norm(centred_x.T @ centred_y) ** 2
    plain /= np.linalg.norm(centred_x.T @ centred_x) * np.linalg.norm(centred_y.T @ centred_y)
    assert plain > 0.4
    assert abs(of_arrays(x, y)) < 0.02


def test_cka_of_states_that_do_not_vary_is_0():
    assert of_arrays(np.ones((9, 2)), np.random.default_rng(0).normal(size=(9, 3))) == 0


TOY = ModelConfig(layers=1, heads=2, d_model=16, d_ff=32, context=16)
FOOD = Stage(model=TOY, mixture={"food": 1}, tokens=20 * 128, recipe=Recipe(batch=8, learning_rate=6e-3), seed=0)
THEN = FOOD.altered(mixture={"automotive": 0.75, "food": 0.25}, parent=FOOD)


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory, toy_tokens: TokenData) -> Switch:
    store = StageStore(tmp_path_factory.mktemp("monitors") / "stages")
    run_stage(Job(FOOD, toy_tokens, store, ("food",), Evaluation(sequences=4, marks=1)), Worker())
    return Switch(THEN, store, fingerprints(toy_tokens), Worker(), toy_tokens)


def test_the_gauge_reads_texts_that_no_method_trains_on(switch, toy_tokens):
    rows, trained = gauge_rows(switch, 64), self_samples(switch, 64, "unigram").numpy()
    assert rows.shape == trained.shape == (64, TOY.context + 1)
    assert not {row.tobytes() for row in rows} & {row.tobytes() for row in trained}
    assert rows.max() < toy_tokens.vocab_size
    assert len(np.unique(rows[:, 0])) > 8  # drawn, not all <eos>
    assert np.array_equal(gauge_rows(switch, 64), rows)


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**31 + 7, 2**32 + 3, 2**40])
def test_whatever_the_seed_the_gauge_draws_another_stream(seed):
    gauge, method = (torch.Generator().manual_seed(s) for s in (seed ^ GAUGE_BIT, seed))
    assert not torch.equal(torch.rand(8, generator=gauge), torch.rand(8, generator=method))


def test_a_stage_is_measured_on_its_main_corpus_and_the_first_is_not_measured(switch, toy_tokens):
    gauge = of_stage(switch)
    assert gauge is not None
    found = gauge.measure(switch.load(FOOD))
    assert set(found) == {"kl_self", "kl/automotive", "weight_distance", "cka_self/1", "cka/automotive/1"}
    assert found["kl_self"] == 0
    first = Switch(FOOD, switch.store, switch.fingerprints, Worker(), toy_tokens)
    assert of_stage(first) is None


def test_of_corpora_of_equal_weight_the_new_one_is_the_main_one():
    assert main_corpus(THEN) == "automotive"
    assert main_corpus(THEN.altered(mixture={"automotive": 0.5, "food": 0.5})) == "automotive"
    assert main_corpus(THEN.altered(mixture={"zebra": 0.5, "food": 0.5})) == "zebra"


if __name__ == "__main__":
    worker = Worker(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    with process_group(worker):
        values = measured(built(0), moved(built(0)), worker)
    (Path(sys.argv[1]) / f"{worker.rank}.json").write_text(json.dumps(values))
