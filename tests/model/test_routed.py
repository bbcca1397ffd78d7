"""The mixture of two models against a loop in numpy, and what follows from its formula."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor, nn

from lethe.model.build import initialise
from lethe.model.config import ModelConfig
from lethe.model.generate import generate, sample_rows
from lethe.model.routed import Routed, faded_sum
from lethe.model.transformer import TorchTransformer

V, T = 11, 24
CONFIG = ModelConfig(layers=1, heads=1, d_model=16, d_ff=16, context=T)
ROUTERS = ["bayes", "naive_bayes", "even"]


def transformer(seed: int, sharpness: float = 4) -> nn.Module:
    """A model of strong opinions, so that the router has something to go by."""
    model = TorchTransformer(CONFIG, V)
    initialise(model, seed)
    model.norm.weight.data.mul_(sharpness)
    return model.requires_grad_(False)


def routed(router: Any = "bayes", gamma: float = 0.9, seeds: tuple[int, int] = (1, 2)) -> Routed:
    ratio = torch.randn(V, generator=torch.Generator().manual_seed(0)) if router == "naive_bayes" else None
    trunk, path = map(transformer, seeds)
    return Routed(trunk, path, router, gamma, ratio)


def texts(rows: int = 8, seed: int = 0) -> Tensor:
    """int64 [rows, T + 1]."""
    return torch.randint(0, V, (rows, T + 1), generator=torch.Generator().manual_seed(seed))


def in_numpy(model: nn.Module, ids: Tensor) -> ndarray:
    """Probabilities [B, T, V] of one model, float64."""
    logits = model(ids).double().numpy()
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def nats(model: nn.Module, rows: Tensor) -> Tensor:
    """What each row costs, without its first token: float64 [B]."""
    log_p = model(rows[:, :-1]).double().log_softmax(-1)
    return -log_p.gather(-1, rows[:, 1:, None]).sum((1, 2))


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("gamma", [0, 0.6, 0.9, 1])
def test_it_is_the_loop_of_its_formula(router: str, gamma: float) -> None:
    model, ids = routed(router, gamma), texts()[:, :-1]
    a, b = in_numpy(model.trunk, ids), in_numpy(model.path, ids)
    found = model(ids).exp().numpy()
    for row in range(len(ids)):
        odds = 0.0
        for t in range(T):
            token = int(ids[row, t])
            odds *= gamma
            if router == "bayes" and t > 0:
                odds += math.log(b[row, t - 1, token]) - math.log(a[row, t - 1, token])
            if router == "naive_bayes":
                assert model.ratio is not None
                odds += float(model.ratio[token])
            w = 1 / (1 + math.exp(-odds))
            np.testing.assert_allclose(found[row, t], w * b[row, t] + (1 - w) * a[row, t], atol=2e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sharpness", [1, 4, 30])
def test_with_gamma_1_no_text_costs_ln_2_more_than_under_either_model(seed: int, sharpness: float) -> None:
    model = Routed(transformer(seed, sharpness), transformer(seed + 10, sharpness), "bayes", 1)
    rows = texts(64, seed)
    mixture, a, b = nats(model, rows), nats(model.trunk, rows), nats(model.path, rows)
    assert (mixture <= torch.minimum(a, b) + math.log(2) + 1e-4).all()
    torch.testing.assert_close(-mixture, torch.logaddexp(-a, -b) - math.log(2), atol=1e-3, rtol=1e-5)
    assert (a - b).abs().max() > math.log(2)  # else the bound would hold of any mixture


def test_mixtures_nest_to_an_exact_posterior_over_three() -> None:
    first = Routed(transformer(1), transformer(2), "bayes", 1)
    both, rows = Routed(first, transformer(3), "bayes", 1), texts(64)
    a, b, c = (nats(model, rows) for model in (first.trunk, first.path, both.path))
    log_priors = torch.tensor([0.25, 0.25, 0.5]).double().log()
    expected = torch.logsumexp(torch.stack((-a, -b, -c), dim=1) + log_priors, dim=1)
    torch.testing.assert_close(-nats(both, rows), expected, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("router", ROUTERS)
def test_a_token_changes_nothing_before_it(router: str) -> None:
    model, ids, t = routed(router), texts(1)[:, :-1], 9
    other = ids.clone()
    other[0, t] = (ids[0, t] + 1) % V
    before, after = model(ids)[0], model(other)[0]
    assert torch.equal(before[:t], after[:t])
    assert all((before[u] - after[u]).abs().max() > 1e-6 for u in range(t, T))


@pytest.mark.parametrize("router", ["bayes", "naive_bayes"])
def test_a_token_is_evidence_at_once_for_the_next(router: str) -> None:
    """From log-probabilities that stay as they are, only the odds from the changed token on differ."""
    model, ids, t = routed(router), texts(1)[:, :-1], 9
    other = ids.clone()
    other[0, t] = (ids[0, t] + 1) % V
    both = [part(ids).log_softmax(-1) for part in (model.trunk, model.path)]
    moved = (model.log_odds(ids, *both) - model.log_odds(other, *both))[0].abs() > 1e-6
    assert moved.tolist() == [False] * t + [True] * (T - t)


@pytest.mark.parametrize("router", ["bayes", "even"])
def test_equal_models_give_what_one_gives(router: str) -> None:
    model, ids = routed(router, 0.9, seeds=(1, 1)), texts()[:, :-1]
    torch.testing.assert_close(model(ids), model.trunk(ids).log_softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("router", ROUTERS)
def test_its_logits_are_log_probabilities_however_sure_it_is(router: str) -> None:
    model = Routed(transformer(1, 300), transformer(2, 300), router, 1, torch.full((V,), 1e3))  # type: ignore[arg-type]
    found = model(texts()[:, :-1])
    assert found.dtype == torch.float32
    assert not found.isnan().any()
    torch.testing.assert_close(found.logsumexp(-1), torch.zeros(len(found), T), atol=1e-4, rtol=0)


def test_the_sum_is_not_rounded_to_the_precision_of_products() -> None:
    x = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(faded_sum(x, 1), x.cumsum(-1), atol=1e-4, rtol=0)
    assert torch.equal(faded_sum(x, 0), x)


def test_text_is_drawn_from_the_mixture() -> None:
    """Greedy text is the likeliest token each time; rows follow their beginning as the mixture says."""
    model, ids = routed("bayes", 1), torch.tensor([[3, 5]])
    wanted = {"context": T, "tokens": 8, "temperature": 0.0, "top_k": None, "seed": 0, "vocab": V, "stop": None}
    drawn, expected = list(generate(model, ids, **wanted)), []  # type: ignore[arg-type]
    for _ in range(8):
        expected.append(int(model(ids)[0, -1].argmax()))
        ids = torch.cat((ids, torch.tensor([[expected[-1]]])), dim=1)
    assert drawn == expected
    rows = sample_rows(model, torch.full((4000,), 3), 2, V, torch.Generator().manual_seed(0))
    pairs = np.bincount(rows[:, 1] * V + rows[:, 2], minlength=V * V).reshape(V, V) / len(rows)
    all_pairs = torch.stack((torch.full((V,), 3), torch.arange(V)), dim=1)
    p = model(all_pairs).exp().double().numpy()
    np.testing.assert_allclose(pairs, p[0, 0][:, None] * p[:, 1], atol=4 * math.sqrt(0.25 / len(rows)))


def test_trained_through_the_mixture_each_model_learns_by_its_posterior() -> None:
    """With gamma 1 the gradient of a text's cost is each model's own, by the probability that the text is its."""
    model, rows = routed("bayes", 1).requires_grad_(True), texts(1)
    nats(model, rows).sum().backward()
    costs = [nats(part, rows).sum() for part in (model.trunk, model.path)]
    posterior = torch.softmax(-torch.stack(costs).detach(), dim=0)
    for part, cost, share in zip((model.trunk, model.path), costs, posterior, strict=True):
        for parameter, own in zip(part.parameters(), torch.autograd.grad(cost, list(part.parameters())), strict=True):
            torch.testing.assert_close(parameter.grad, own * share.float(), atol=1e-3, rtol=1e-3)
