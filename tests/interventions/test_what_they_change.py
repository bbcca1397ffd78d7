"""Each kind changes what it says, and what it computes is what numpy and the formula give."""

import numpy as np
import pytest
import torch

from lethe.config import UserError
from lethe.interventions import InterventionConfig
from lethe.interventions.derived import fisher, input_moments
from lethe.interventions.distill import kl
from lethe.interventions.gpm import projection
from lethe.training.loop import run_stage
from lethe.worker import Worker


def test_kl_is_that_of_numpy():
    teacher, student = torch.randn(2, 3, 5, 11, generator=torch.Generator().manual_seed(0)).double()
    p, q = (np.exp(x.numpy()) / np.exp(x.numpy()).sum(-1, keepdims=True) for x in (teacher, student))
    assert kl(teacher, student).item() == pytest.approx((p * (np.log(p) - np.log(q))).sum(), rel=1e-5)
    assert kl(teacher, teacher + 3).item() == pytest.approx(0, abs=1e-4)


def divergence(lab, stage, rows: torch.Tensor) -> float:
    """KL(p_A || p) of a stage, nats per token."""
    models = lab.model(lab.food), lab.model(stage)
    with torch.no_grad():
        teacher, student = (model(rows[:, :-1]).log_softmax(-1) for model in models)
    return (teacher.exp() * (teacher - student)).sum(-1).mean().item()


@pytest.mark.parametrize("on", ["self_samples", "buffer"])
def test_a_great_weight_ends_near_the_outputs_of_a(lab, on):
    held_out = torch.from_numpy(lab.data.split("food", "val").read(np.arange(16), 32))
    plain = divergence(lab, lab.after_food(), held_out)
    weak, strong = (lab.after_food("distill", on=on, weight=weight, rows=1) for weight in (1, 100))
    assert divergence(lab, strong, held_out) < divergence(lab, weak, held_out) < plain
    assert divergence(lab, strong, held_out) < 0.05 < 0.5 < plain


def test_a_great_weight_of_replay_ends_where_training_on_the_samples_alone_does(lab):
    """L_B is lost with it: cross-entropy of samples, weighed 1000 times, leaves nothing for B."""
    strong = lab.after_food("replay_self", weight=1000, rows=1)
    assert lab.loss(strong, "automotive") > lab.loss(lab.after_food(), "automotive") + 0.5
    assert lab.loss(strong, "food") < lab.loss(lab.after_food(), "food") - 0.5


def test_soft_targets_keep_more_than_their_texts(lab):
    soft, hard = lab.after_food("distill", sequences=64), lab.after_food("replay_self", sequences=64)
    assert lab.loss(soft, "food") < lab.loss(hard, "food")


def test_ewc_leaves_free_what_a_never_used(lab):
    """Words that A never saw have no Fisher without a floor; the strongest pull holds all others."""
    held = lab.after_food("ewc", strength=1e30, sequences=40)
    counts = np.array(lab.store.record(lab.run(lab.food).key)["unigram_counts"])
    moved = (lab.weights(held)["blocks.0.ffn.down.weight"] - lab.weights(lab.food)["blocks.0.ffn.down.weight"]).abs()
    assert moved.max() == 0
    embedding = (lab.weights(held)["embedding.weight"] - lab.weights(lab.food)["embedding.weight"]).abs().amax(1)
    assert embedding[counts > 50].max() == 0


def test_freezing_and_training_are_of_the_parts_named(lab):
    weights, before = lab.weights(lab.after_food("freeze", parts=["bottom", "attention"])), lab.weights(lab.food)
    still = {name for name, tensor in weights.items() if torch.equal(tensor, before[name])}
    assert still == {name for name in weights if name.startswith("blocks.0.") or ".attention." in name}
    parts = lab.weights(lab.after_food("freeze", parts=["embedding", "top", "norms"]))
    still = {name for name, tensor in parts.items() if torch.equal(tensor, before[name])}
    assert still == {n for n in parts if n.startswith(("blocks.1.", "embedding")) or n.endswith("norm.weight")}


def test_a_scaled_rate_is_another_recipe(lab):
    recipe = lab.food.recipe.model_copy(update={"learning_rate": 0.25 * lab.food.recipe.learning_rate, "warmup": 0.5})
    other, scaled = lab.after_food(changes={"recipe": recipe}), lab.after_food("lr", scale=0.25, warmup=0.5)
    assert all(torch.equal(tensor, lab.weights(scaled)[name]) for name, tensor in lab.weights(other).items())


def test_lora_adds_a_product_of_its_rank_to_the_matrices_of_blocks_alone(lab):
    weights, before = lab.weights(lab.after_food("lora", rank=3)), lab.weights(lab.food)
    for name, tensor in weights.items():
        if name.startswith("blocks.") and tensor.dim() == 2:
            values = torch.linalg.svdvals((tensor - before[name]).double())
            assert values[2] > 1e-3
            assert values[3] < 1e-5
        else:
            assert torch.equal(tensor, before[name])


def test_gpm_moves_nothing_along_the_protected_inputs(lab):
    stage = lab.after_food("gpm", share=0.9, sequences=16)
    weights, before = lab.weights(stage), lab.weights(lab.food)
    moments = input_moments(lab.switch(stage), 16)
    for name, moment in moments.items():
        change = weights[name] - before[name]
        assert change.norm() > 1e-3
        assert (change @ projection(moment, 0.9)).norm() < 1e-4 * change.norm()
    assert all(torch.equal(weights[name], before[name]) for name in weights.keys() - moments.keys())


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_an_average_lies_on_the_line(lab, share):
    a, b = lab.weights(lab.food), lab.weights(lab.after_food())
    for name, tensor in lab.weights(lab.after_food("average", share=share)).items():
        np.testing.assert_allclose(tensor, share * a[name].numpy() + (1 - share) * b[name].numpy(), atol=1e-6)


def test_a_moving_average_is_that_of_the_weights_after_each_step(lab, own_lab):
    stage = lab.after_food("ema", {"tokens": 3 * 256}, decay=0.6)
    average = {name: tensor.double() for name, tensor in lab.weights(lab.food).items()}
    own_lab.run(own_lab.food)
    from lethe.training.loop import Training

    training = Training(own_lab.job(own_lab.after_food(changes={"tokens": 3 * 256})), Worker())
    for _ in range(3):
        training.train_step()
        average = {n: 0.6 * average[n] + 0.4 * t.double() for n, t in training.model.state_dict().items()}
    for name, tensor in lab.weights(stage).items():
        torch.testing.assert_close(tensor.double(), average[name], atol=1e-6, rtol=0)


def test_the_prior_shifts_the_logits_by_the_ratio_of_counts(lab):
    stage, plain = lab.after_food("prior", strength=0.75), lab.after_food()
    counts = [np.array(lab.store.record(lab.run(s).key)["unigram_counts"]) + 0.5 for s in (lab.food, plain)]
    shift = 0.75 * (np.log(counts[0] / counts[0].sum()) - np.log(counts[1] / counts[1].sum()))
    ids = torch.tensor([[5, 7, 11]])
    with torch.no_grad():
        found = lab.model(stage)(ids) - lab.model(plain)(ids)
    np.testing.assert_allclose(found[0], np.tile(shift, (3, 1)), atol=1e-5)
    assert lab.loss(stage, "food") < lab.loss(plain, "food")


def test_without_strength_the_prior_is_plain_training(lab):
    off, plain = lab.after_food("prior", strength=0), lab.after_food()
    assert lab.loss(off, "food") == lab.loss(plain, "food")
    trunk = {name.removeprefix("trunk."): tensor for name, tensor in lab.weights(off).items()}
    assert not trunk.pop("shift").any()
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in lab.weights(plain).items())


def test_at_strength_1_all_that_a_model_knows_of_b_is_its_prior_no_more(lab):
    """A model that says u_B everywhere says u_A once shifted."""
    from lethe.model.shifted import Shifted

    shift = lab.model(lab.after_food("prior", strength=1)).shift
    counts = [
        torch.tensor(lab.store.record(lab.run(s).key)["unigram_counts"]) + 0.5 for s in (lab.food, lab.after_food())
    ]
    knows_b = Shifted(lambda ids: (counts[1] / counts[1].sum()).log().expand(*ids.shape, -1), len(shift))  # type: ignore[arg-type]
    knows_b.shift.copy_(shift)
    said = knows_b(torch.tensor([[1, 2]])).softmax(-1)
    torch.testing.assert_close(said[0, 1], counts[0] / counts[0].sum(), atol=1e-5, rtol=1e-4)


def test_a_stage_goes_on_from_each_derived_one(lab):
    """What a stage of no steps is derived from counts as trained on, and the next stage reads on after it."""
    for kind in ("average", "prior"):
        derived = lab.after_food(kind, **({"share": 0.5} if kind == "average" else {}))
        after = lab.stage(changes={"mixture": {"automotive": 1}, "parent": derived, "tokens": 256})
        assert after.offsets == lab.stage(changes={"mixture": {"automotive": 1}, "parent": lab.after_food()}).offsets
        assert lab.loss(after, "food", 0) == lab.loss(derived, "food")
        record = lab.store.record(lab.run(derived).key)
        assert record["unigram_counts"] == lab.store.record(lab.run(lab.after_food()).key)["unigram_counts"]


def test_without_a_stage_before_there_is_nothing_to_keep(lab):
    with pytest.raises(UserError, match="intervention: found 'distill'; allowed without a parent: none"):
        run_stage(lab.job(lab.stage("distill")), Worker())


def test_gpm_needs_the_model_that_has_layers(lab):
    written_out = lab.food.model.model_copy(update={"implementation": "fundamentals"})
    first = lab.stage(changes={"model": written_out})
    stage = first.altered(parent=first, intervention=InterventionConfig(kind="gpm"))
    with pytest.raises(UserError, match="gpm: model.implementation: allowed: torch"):
        lab.run(stage)


def test_the_pull_of_ewc_is_its_formula_with_the_fisher_in_units_of_its_mean(lab):
    stage = lab.after_food("ewc", strength=20, sequences=8)
    switch, model = lab.switch(stage), lab.model(lab.food)
    before = {name: tensor.double().numpy().copy() for name, tensor in model.state_dict().items()}
    f = {name: tensor.double().numpy() for name, tensor in fisher(switch, 8).items()}
    mean = np.concatenate([values.ravel() for values in f.values()]).mean()
    for parameter in model.parameters():
        parameter.data.add_(0.5)
    stage.intervention.make(switch).after_step(model, 0.01)
    for name, tensor in model.state_dict().items():
        q = 0.01 * 20 * f[name] / mean
        np.testing.assert_allclose(tensor, before[name] + 0.5 / (1 + q), rtol=1e-4, atol=1e-5)
