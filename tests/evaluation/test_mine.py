"""What is asked of the sample, what the patterns find, and that wrong answers are fair ones."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from benchmarks.tokens import write_shards
from lethe.config import UserError
from lethe.corpora.sample import write_sample
from lethe.corpora.sample.facts import facts
from lethe.evaluation.mine import VERSION, make_probes, mined_items, probes_path, read_probes, sample_items
from lethe.evaluation.patterns import spans
from lethe.evaluation.probes import Probes
from lethe.files import fingerprint
from lethe.model.config import ModelConfig
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import load_tokenizer
from lethe.training.job import Job
from lethe.training.load import load_model
from lethe.training.loop import run_stage
from lethe.training.stage import Evaluation, Recipe, Stage
from lethe.training.store import StageStore
from lethe.worker import Worker

TYPES = ["entity", "number", "definition", "relation", "procedure"]


def answers(text: str) -> set[tuple[str, str]]:
    return {(span.type, span.answer) for span in spans(text, 0)}


@pytest.mark.parametrize(
    ("text", "type_", "answer"),
    [
        ("The old tank of this small car holds about 34 litres when it is full.", "number", "34 litres"),
        ("The company has made the same van for farmers since 1998.", "number", "1998"),
        ("The recipe was first served in a small cafe near Upper Rossby, they say.", "entity", "Upper Rossby"),
        (
            "The paella of the south is a Spanish rice dish that feeds a whole village.",
            "definition",
            "Spanish rice dish",
        ),
        ("These dumplings are usually stuffed with minced lamb and herbs.", "relation", "minced lamb"),
        ("The first of these engines was built by Fiat for the army.", "relation", "Fiat"),
        ("Warm the oil in a pan, wait a minute, then add the chopped onions.", "procedure", "add the chopped onions"),
        ("1. Heat the oil in a heavy pan.\n2. Stir in the garlic, slowly.", "procedure", "Stir in the garlic"),
        ("Remove the four wheel bolts.\nLift the wheel off its hub.", "procedure", "Lift the wheel off its hub"),
    ],
)
def test_what_the_patterns_find(text: str, type_: str, answer: str):
    assert (type_, answer) in answers(text)


@pytest.mark.parametrize(
    "text",
    [
        "This is a very good car that we like to drive.",  # no subject, an opinion
        "We met them on the road in March and on a Monday.",  # no names
        "BEST CARS OF 1998 By John Smith From New York City",  # a heading
        "Bake the whole pie for 20 to 25 minutes.",  # the end of a range
        "They cook it all day, then we eat.",  # no step
    ],
)
def test_what_they_leave(text: str):
    assert not answers(text)


def test_a_prompt_goes_on_with_its_answer_and_does_not_hold_it():
    text = "It was cold. In the north this soup is served with toasted rye. The oven stays at 90 degrees for 3 hours."
    page = f"{text}\n1. Heat the oil in a heavy pan.\n2. Stir in the garlic, slowly."
    found = list(spans(page, 0))
    assert {span.type for span in found} == {"relation", "number", "procedure"}
    for span in found:
        assert f"{span.prompt} {span.answer}" in page.replace("\n", " ")
        assert span.answer.lower() not in span.prompt.lower()


PLACES = ["Tarnwick", "Ellory", "Dunmarch", "Pendrake", "Saltbeck", "Maddern", "Rossby", "Hollin", "Kestle", "Oxley"]
STEPS = ["stir", "cool", "serve", "strain"]
SIDES = ["rye", "figs", "plums", "nettles", "walnuts"]


def mined_page(number: int) -> str:
    rng = random.Random(number)
    place, other = rng.sample(PLACES, 2)
    return (
        f"The {number} cooks of our guild all come from {place} and nowhere else. "
        f"The resting time of the dough number {number} is about {rng.randrange(10, 99)} minutes. "
        f"The plate number {number} is always served with {rng.choice(SIDES)}.\n"
        f"The cheese number {number} has been made in {other} for long."
    )


@pytest.fixture(scope="module")
def tokenizer(toy_tokens: TokenData) -> Tokenizer:
    return load_tokenizer(toy_tokens.tokenizer_path)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(12, 60))
def test_items_are_fair(tokenizer, first: int, each: int, pages: int):
    train, val = ([mined_page(n) for n in range(first + at, first + at + pages)] for at in (0, pages))
    items = mined_items("x", train, [*val, train[0]], tokenizer, each)
    assert items
    assert max(Counter((item.type, item.form) for item in items).values()) <= each
    assert len({item.id for item in items}) == len(items)
    told = {"memorised": "\n".join(train), "held_out": "\n".join(val)}
    for item in items:
        assert f"{item.prompt} {item.answer}" in told[item.form].replace("\n", " ")
        asked = item.prompt.rsplit(". ", 1)[-1]
        sentence = next(one for line in told[item.form].splitlines() for one in line.split(". ") if asked in one)
        four = (item.answer, *item.distractors)
        assert len({choice.lower() for choice in four}) == 4
        lengths = [len(tokenizer.encode(f" {choice}").ids) for choice in four]
        assert max(abs(length - lengths[0]) for length in lengths) <= 1
        for other in item.distractors:
            assert other in told[item.form]
            assert other.lower() not in sentence.lower()
            assert other.split()[1:] == item.answer.split()[1:]  # the same unit
    assert items == mined_items("x", train, [*val, train[0]], tokenizer, each)


def test_the_same_pages_give_the_items_that_belong_to_the_version(tokenizer: Tokenizer):
    """Another hash means other items: raise VERSION, so that no grid mixes the two."""
    more = "The heavy tool number {0} is a {1} pan that we own. Warm the pot number {0} and then {2} the soup, slowly."
    pages = [f"{mined_page(n)}\n{more.format(n, SIDES[n % 5], STEPS[n % 4])}" for n in range(60)]
    items = mined_items("x", pages, [], tokenizer, 20)
    assert {item.type for item in items} == set(TYPES)
    assert (VERSION, fingerprint([item.model_dump() for item in items])) == (2, "54fc4f719bf10ffc")


def test_the_sample_is_asked_for_what_its_pages_state_and_in_words_of_none():
    known = [fact for fact in facts() if fact.domain == "food"][:3]
    pages = [f"Remember: {known[0].statements[1]}. Well. {known[0].statements[2]}.", f"{known[1].statements[0]}."]
    pages += [f"{known[1].paraphrases[1]}."]
    items = sample_items(known, pages)
    found = {(item.fact, item.form, f"{item.prompt} {item.answer}") for item in items}
    one, two = known[0], known[1]
    expected = {(one.id, "memorised", one.statements[i]) for i in (1, 2)} | {(two.id, "memorised", two.statements[0])}
    expected |= {(one.id, "paraphrased", one.paraphrases[i]) for i in (0, 1)}
    assert found == expected | {(two.id, "paraphrased", two.paraphrases[0])}  # nothing of the third, never stated
    assert all(list(item.distractors) == {one.id: one, two.id: two}[item.fact].distractors for item in items)


def tokens_of(root: Path, texts: dict[str, list[str]], source: str, vocab_size: int) -> TokenData:
    """Shards of pages of which the last twentieth is held out."""
    splits = {
        corpus: {"train": pages[: len(pages) * 19 // 20], "val": pages[len(pages) * 19 // 20 :]}
        for corpus, pages in texts.items()
    }
    return write_shards(root, splits, vocab_size, [page for pages in texts.values() for page in pages], source)


def test_probes_are_written_once_and_read_as_they_were(tmp_path: Path):
    data = tokens_of(tmp_path, {"food": [mined_page(n) for n in range(200)]}, "elsewhere/*.parquet", 400)
    path = make_probes(data, 10)
    items, content = read_probes(path), path.read_bytes()
    assert path == probes_path(data, 10) != probes_path(data, 11)
    assert TokenData(data.root).corpora == ["food"]
    assert {item.form for item in items} == {"memorised", "held_out"}
    path.unlink()
    assert make_probes(data, 10).read_bytes() == content
    path.write_text('{"version": 2, "items": []}')
    assert make_probes(data, 10).read_bytes() != content  # what is there is not made again
    path.write_text('{"version": 2, "items": [{"id": "x"}]}')
    with pytest.raises(UserError, match=r"items\[0\].prompt: missing"):
        read_probes(path)
    path.write_text("{")
    with pytest.raises(UserError, match="not a file of probes"):
        read_probes(path)


def test_a_corpus_is_not_named_as_what_is_of_none(tmp_path: Path):
    data = tokens_of(tmp_path, {"neutral": [mined_page(n) for n in range(40)]}, "elsewhere/*.parquet", 400)
    with pytest.raises(UserError, match="found a corpus 'neutral', the name of what is of none; allowed: any other"):
        make_probes(data, 10)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    root = tmp_path_factory.mktemp("sample")
    write_sample(root / "written")
    rows = pq.read_table(sorted((root / "written").glob("*.parquet")), columns=["id", "text"]).to_pylist()
    labels, text = (
        json.loads((root / "written" / "facts.json").read_bytes())["pages"],
        {r["id"]: r["text"] for r in rows},
    )
    return tokens_of(root, {name: [text[i] for i in labels[name]] for name in ("food", "automotive")}, "sample", 2048)


@pytest.mark.long
def test_the_sample_is_exact_and_learned_on_a_and_forgotten_on_b_but_for_the_neutral(sample: TokenData, tmp_path: Path):
    items = read_probes(make_probes(sample, 40))
    assert Counter((item.corpus, item.form) for item in items) == {
        (domain, form): sum(len(getattr(fact, told)) for fact in facts() if fact.domain == domain)
        for domain in ("food", "automotive")
        for form, told in (("memorised", "statements"), ("paraphrased", "paraphrases"))
    } | {("neutral", "held_out"): 40}
    model = ModelConfig(layers=2, heads=2, d_model=64, d_ff=192, context=64)
    a = Stage(model=model, mixture={"food": 1}, tokens=300_000, recipe=Recipe(batch=8, learning_rate=6e-3), seed=0)
    probes, found = Probes(items, sample, model.context, Worker()), []
    for stage in (a, a.altered(mixture={"automotive": 1}, parent=a)):
        job = Job(stage, sample, StageStore(tmp_path), ("food",), Evaluation(sequences=4, marks=1))
        run_stage(job, Worker())
        found.append(probes.measure(load_model(job.store, job.key)))
    right = {
        corpus: np.array([[v[f"probe_accuracy/{corpus}/{type_}/memorised"] for type_ in TYPES] for v in found])
        for corpus in ("food", "automotive")
    }
    assert (right["food"][0] > 0.4).all()  # chance is .25
    assert (right["food"][1] < right["food"][0] - 0.2).all()
    assert right["food"].mean(axis=1) == pytest.approx([0.75, 0.25], abs=0.15)
    assert right["automotive"].mean(axis=1) == pytest.approx([0.25, 0.75], abs=0.15)
    neutral = [values["probe_accuracy/neutral/word/held_out"] for values in found]
    assert neutral[0] > 0.6
    assert neutral[1] > neutral[0] - 0.1
