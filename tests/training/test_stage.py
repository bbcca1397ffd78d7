"""A stage is a value: what changes its weights changes its key, and nothing else does."""

import pytest

from lethe.files import fingerprint
from lethe.interventions import InterventionConfig
from lethe.model.config import ModelConfig
from lethe.training.stage import SEMANTICS, Evaluation, Recipe, Stage

TOY = ModelConfig(layers=1, heads=1, d_model=32, d_ff=128, context=32)
RECIPE = Recipe(batch=8, learning_rate=6e-3)
DATA = {"tokenizer": "t", "food": "f", "automotive": "a"}


def stage(**changes) -> Stage:
    return Stage(**{"model": TOY, "mixture": {"food": 1}, "tokens": 10_000, "recipe": RECIPE, "seed": 0} | changes)


FOOD = stage()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": TOY.model_copy(update={"layers": 2})},
        {"model": TOY.model_copy(update={"implementation": "fundamentals"})},
        {"mixture": {"automotive": 1}},
        {"mixture": {"automotive": 0.5, "food": 0.5}},
        {"tokens": 20_000},
        {"recipe": Recipe(batch=8, learning_rate=5e-3)},
        {"recipe": Recipe(batch=4, learning_rate=6e-3)},
        {"recipe": Recipe(batch=8, learning_rate=6e-3, precision="bf16")},
        {"recipe": Recipe(batch=8, learning_rate=6e-3, schedule="cosine")},
        {"recipe": Recipe(batch=8, learning_rate=6e-3, warmup=0.1)},
        {"recipe": Recipe(batch=8, learning_rate=6e-3, decay=0.1)},
        {"recipe": Recipe(batch=8, learning_rate=6e-3, compile=True)},
        {"seed": 1},
        {"parent": FOOD},
        {"parent": FOOD, "recipe": Recipe(batch=8, learning_rate=6e-3, optimizer_at_switch="carry")},
        {"parent": FOOD, "recipe": Recipe(batch=8, learning_rate=6e-3, warmup_at_switch=0)},
        {"parent": stage(seed=2)},
        {"parent": FOOD, "intervention": InterventionConfig(kind="l2_sp", strength=1)},
        {"parent": FOOD, "intervention": InterventionConfig(kind="l2_sp", strength=2)},
        {"reads": (FOOD,)},
    ],
)
def test_what_determines_the_weights_is_in_the_key(changes):
    pulled = stage(parent=FOOD, intervention=InterventionConfig(kind="l2_sp", strength=3))
    others = [FOOD, pulled, *([] if changes == {"parent": FOOD} else [stage(parent=FOOD)])]
    assert stage(**changes).key(DATA) not in {other.key(DATA) for other in others}


def test_equal_stages_have_equal_keys_however_they_were_written():
    assert stage(mixture={"food": 2, "automotive": 0}).key(DATA) == FOOD.key(DATA)
    assert stage(tokens=10_001).key(DATA) == FOOD.key(DATA)  # the same number of whole batches
    assert Stage.model_validate_json(stage(parent=FOOD).model_dump_json()).key(DATA) == stage(parent=FOOD).key(DATA)


def test_a_key_is_the_hash_of_the_whole_specification():
    child = stage(parent=FOOD, intervention=InterventionConfig(kind="l2_sp", strength=3), reads=(FOOD,))
    record = {name: getattr(child, name).model_dump(mode="json") for name in ("model", "recipe", "intervention")}
    record |= {"semantics": SEMANTICS, "mixture": {"food": 1.0}, "steps": child.steps, "seed": 0}
    record |= {"parent": FOOD.key(DATA), "reads": [FOOD.key(DATA)], "data": {"tokenizer": "t", "food": "f"}}
    assert child.key(DATA) == fingerprint(record)


def test_what_happens_at_a_switch_is_in_the_key_only_where_there_is_one():
    at_switch = RECIPE.model_copy(update={"optimizer_at_switch": "carry", "warmup_at_switch": 0.2})
    assert stage(recipe=at_switch).key(DATA) == FOOD.key(DATA)
    child = stage(recipe=at_switch, parent=FOOD)
    assert child.carries
    assert child.recipe.warmup == 0.2
    assert not stage(recipe=at_switch).carries
    as_long = RECIPE.model_copy(update={"warmup_at_switch": RECIPE.warmup})
    assert stage(recipe=as_long, parent=FOOD).key(DATA) == stage(parent=FOOD).key(DATA)
    assert Stage.model_validate_json(child.model_dump_json()).key(DATA) == child.key(DATA)


def test_only_the_corpora_that_were_read_enter_the_key():
    assert FOOD.key(DATA | {"automotive": "other", "third": "x"}) == FOOD.key(DATA)
    assert FOOD.key(DATA | {"food": "other"}) != FOOD.key(DATA)
    assert FOOD.key(DATA | {"tokenizer": "other"}) != FOOD.key(DATA)
    later = stage(mixture={"automotive": 1}, parent=FOOD)
    assert later.key(DATA | {"food": "other"}) != later.key(DATA)


def test_a_budget_is_counted_in_whole_batches():
    assert [stage(tokens=n).steps for n in (0, 1, 256, 10_000, 10_100)] == [0, 1, 1, 39, 39]


def test_a_corpus_is_read_on_where_the_ancestors_stopped():
    mixed = stage(mixture={"food": 0.25, "automotive": 0.75}, parent=FOOD)
    third = stage(parent=mixed)
    assert FOOD.offsets == {}
    assert mixed.offsets == {"food": FOOD.steps * 8}
    assert third.offsets == {"food": FOOD.steps * 8 + mixed.drawn["food"], "automotive": mixed.drawn["automotive"]}


def test_weights_that_sum_to_nothing_are_refused():
    with pytest.raises(ValueError, match="allowed: at least one weight above 0"):
        stage(mixture={"food": 0})


def test_marks_are_dense_after_the_switch_and_even_later():
    assert Evaluation(marks=4).steps(400) == [0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300, 400]
    assert Evaluation(marks=10).steps(3) == [0, 1, 2, 3]
    assert Evaluation(marks=10).steps(0) == [0]
