"""Scores of choices against one call of the model for each token, and what becomes of them on the way to a curve."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.config import UserError
from lethe.evaluation.items import Item
from lethe.evaluation.probes import Probes, margins
from lethe.model.build import build_model, initialise
from lethe.model.config import ModelConfig
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import EOS_ID, load_tokenizer
from lethe.worker import Worker

CONTEXT = 24
MODEL = ModelConfig(layers=2, heads=2, d_model=16, context=CONTEXT)
LONG = "the onion and garlic with some butter in the oven then stir the soup and the bread because"


def item(number: int, prompt: str, answer: str, *others: str, **changes: str) -> Item:
    values = {"id": f"x{number}", "fact": f"x{number}", "corpus": "food", "type": "entity", "form": "memorised"}
    return Item.model_validate(values | changes | {"prompt": prompt, "answer": answer, "distractors": others})


ITEMS = [
    item(0, "stir the", "soup", "bread", "butter and salt", "s"),
    item(1, "stir the", "oven", "soup", "soup soup soup", "x"),
    item(2, LONG, "salt", "the wheel", "clutch", "very", corpus="automotive"),
    item(3, "they", "torque \u00e9", "gasket", "a sedan", "tyre", form="paraphrased"),
    item(4, "a good", "engine", "brake", "piston", "wheel", fact="x3", form="paraphrased"),
]


@pytest.fixture(scope="module")
def model(toy_tokens: TokenData) -> torch.nn.Module:
    built = build_model(MODEL, toy_tokens.vocab_size)
    initialise(built, seed=3)
    for parameter in built.parameters():
        parameter.data *= 4  # far from uniform
    return built


@torch.no_grad()
def log_probability(model: torch.nn.Module, context: list[int], choice: list[int]) -> float:
    total, ids = 0.0, list(context)
    for token in choice:
        scores = model(torch.tensor([ids]))[0, -1].double().numpy()
        total += scores[token] - scores.max() - math.log(np.exp(scores - scores.max()).sum())
        ids.append(token)
    return total


def by_hand(model: torch.nn.Module, data: TokenData, items: list[Item]) -> np.ndarray:
    """float64 [3, items, 4]: a token, a byte, calibrated."""
    tokenizer = load_tokenizer(data.tokenizer_path)
    found = np.zeros((3, len(items), 4))
    for i, one in enumerate(items):
        texts = [f" {choice}" for choice in (one.answer, *one.distractors)]
        choices = [tokenizer.encode(text).ids for text in texts]
        prompt = [EOS_ID, *tokenizer.encode(one.prompt).ids][-(CONTEXT + 1 - max(map(len, choices))) :]
        for j, (text, choice) in enumerate(zip(texts, choices, strict=True)):
            after, alone = log_probability(model, prompt, choice), log_probability(model, [EOS_ID], choice)
            found[:, i, j] = after / len(choice), after / len(text.encode()), (after - alone) / len(choice)
    return found


def test_scores_are_those_of_one_call_a_token(model: torch.nn.Module, toy_tokens: TokenData):
    probes = Probes(ITEMS, toy_tokens, CONTEXT, Worker())
    assert len(load_tokenizer(toy_tokens.tokenizer_path).encode(LONG).ids) > CONTEXT  # its prompt is cut
    np.testing.assert_allclose(np.stack(probes.scores(model)), by_hand(model, toy_tokens, ITEMS), rtol=2e-5, atol=2e-5)


@settings(max_examples=15)
@given(st.lists(st.tuples(*[st.text("abe s", min_size=1, max_size=9).filter(str.strip)] * 5), min_size=1, max_size=6))
def test_scores_of_any_items_that_share_prompts_and_beginnings(model, toy_tokens, texts):
    items = [item(i, *five) for i, five in enumerate(texts)]
    found = np.stack(Probes(items, toy_tokens, CONTEXT, Worker()).scores(model))
    np.testing.assert_allclose(found, by_hand(model, toy_tokens, items), rtol=5e-5, atol=5e-5)


def test_choices_of_one_token_share_the_row_of_their_prompt(toy_tokens: TokenData):
    probes = Probes([item(0, "stir the", "a", "b", "c", "d")], toy_tokens, CONTEXT, Worker())
    assert sum(len(rows) for rows in probes.batches) == 2  # after the prompt, and after <eos> alone


def test_ranks_do_a_share_each_and_add_up_to_the_same_bits(model, toy_tokens, monkeypatch):
    items = [item(i, f"{'the ' * (i % 7)}{i} is", str(i), str(i + 1), f"{i} soup", "a") for i in range(90)]
    whole = Probes(items, toy_tokens, CONTEXT, Worker()).scores(model)
    parts: list[torch.Tensor] = []

    def keep(self: Worker, values: torch.Tensor) -> torch.Tensor:
        parts.append(values.clone())
        return values

    monkeypatch.setattr(Worker, "sum", keep)
    for rank in range(3):
        Probes(items, toy_tokens, CONTEXT, Worker(rank, 3)).scores(model)
    assert all(0 < int((part != 0).sum()) < len(part) for part in parts)
    monkeypatch.setattr(Worker, "sum", lambda self, values: sum(parts))
    for one, other in zip(whole, Probes(items, toy_tokens, CONTEXT, Worker(5, 3)).scores(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_curves_count_a_fact_once(model: torch.nn.Module, toy_tokens: TokenData):
    values = Probes(ITEMS, toy_tokens, CONTEXT, Worker()).measure(model)
    token, byte, pmi = (scores[:, 0] - scores[:, 1:].max(axis=1) for scores in by_hand(model, toy_tokens, ITEMS))
    assert values["probe_facts/food/entity/memorised"] == 2
    assert values["probe_facts/food/entity/paraphrased"] == 1  # two items
    for name, margin in (("", token), ("_byte", byte), ("_pmi", pmi)):
        assert values[f"probe_accuracy{name}/food/entity/memorised"] == np.mean(margin[:2] > 0)
        assert values[f"probe_accuracy{name}/food/entity/paraphrased"] == np.mean(margin[3:] > 0)
    assert values["probe_margin/automotive/entity/memorised"] == pytest.approx(token[2], rel=1e-4)
    assert values["probe_margin_sd/food/entity/memorised"] == pytest.approx(np.std(token[:2], ddof=1), rel=1e-4)
    assert "probe_margin_sd/automotive/entity/memorised" not in values
    assert len([name for name in values if name.startswith("probe_facts/")]) == 3


def test_without_items_nothing_is_measured(model: torch.nn.Module, toy_tokens: TokenData):
    assert Probes([], toy_tokens, CONTEXT, Worker()).measure(model) == {}


def test_a_choice_as_long_as_the_context_is_refused(toy_tokens: TokenData):
    with pytest.raises(UserError, match=r"probes: x7: found a choice of \d+ tokens; allowed: at most 24"):
        Probes([item(7, "a", "zq " * 30, "b", "c", "d")], toy_tokens, CONTEXT, Worker())


class LovesShort(torch.nn.Module):
    """The same logits whatever came before, short answers far above; but after one id, another is likelier."""

    def __init__(self, favourites: list[int], known: int, after: int, vocab_size: int) -> None:
        super().__init__()
        self.logits = torch.zeros(vocab_size)
        self.logits[favourites] = 6.0
        self.known, self.after = known, after

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = self.logits.expand(*ids.shape, -1).clone()
        logits[ids == self.after, self.known] += 3.0
        return logits


def test_calibration_sees_through_a_model_that_loves_short_answers(toy_tokens: TokenData):
    """It gives each short answer, whatever is asked, more than the long one that it learned for this prompt."""
    tokenizer = load_tokenizer(toy_tokens.tokenizer_path)
    short = [tokenizer.encode(f" {word}").ids for word in ("a", "with", "some")]
    right, after = tokenizer.encode(" gasket xyz").ids, tokenizer.encode("stir the").ids[-1]
    assert all(len(ids) == 1 for ids in short)
    assert len(right) > 2
    loves = LovesShort([ids[0] for ids in short], right[0], after, toy_tokens.vocab_size)
    probes = Probes([item(0, "stir the", "gasket xyz", "a", "with", "some")], toy_tokens, CONTEXT, Worker())
    token, _, pmi = (margins(scores)[0] for scores in probes.scores(loves))
    assert token < -3
    assert pmi == pytest.approx(3 / len(right), rel=0.1)
