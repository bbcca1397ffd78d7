"""Sizes: counts and costs against literal numbers and real models, and what a wrong file is told."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.config import CONFIGS, UserError, parse_yaml, validate
from lethe.model.build import build_model
from lethe.model.config import ModelConfig, load_model_config
from lethe.model.cost import flops_per_token, parameters

VOCAB = 32_768
COUNTS = {
    "toy": 1_065_056,
    "tiny": 2_203_968,
    "tiny4": 2_310_720,
    "tiny4_grown": 3_249_048,
    "tiny4_wide": 5_047_424,
    "small": 5_047_424,
    "5m": 5_047_424,
    "13m": 13_208_832,
    "27m": 26_745_216,
    "42m": 42_476_032,
    "70m": 70_546_560,
    "110m": 110_119_680,
    "236m": 235_963_392,
}


def numel(config: ModelConfig, vocab_size: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(config, vocab_size).parameters())


def test_every_size_of_the_project_is_counted_here() -> None:
    assert {path.stem for path in (CONFIGS / "models").glob("*.yaml")} == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_the_count_is_the_literal_one_the_models_and_the_one_its_file_states(name: str) -> None:
    config = load_model_config(name)
    assert parameters(config, VOCAB) == COUNTS[name] == numel(config, VOCAB)
    first_line = (CONFIGS / "models" / f"{name}.yaml").read_text().splitlines()[0]
    assert first_line.startswith(f"# {COUNTS[name]:,} parameters at a vocabulary of 32,768")


def test_small_sizes_are_small_at_small_vocabularies() -> None:
    counts = [parameters(load_model_config(name), 1024) for name in ("toy", "tiny", "small")]
    assert counts == [49_248, 172_352, 984_192]


@pytest.mark.parametrize("name", ["5m", "13m", "27m", "42m", "70m", "110m", "236m"])
def test_named_sizes_hold_their_name_and_a_derived_d_ff(name: str) -> None:
    config = load_model_config(name)
    assert COUNTS[name] / 1e6 == pytest.approx(int(name[:-1]), abs=0.8)
    assert ModelConfig(**config.model_dump(exclude={"d_ff"})) == config
    assert config.context == 1024


shapes = st.builds(
    lambda heads, size, **rest: ModelConfig(heads=heads, d_model=2 * heads * size, **rest),
    heads=st.integers(1, 6),
    size=st.integers(1, 40),
    layers=st.integers(1, 5),
    d_ff=st.none() | st.integers(1, 300),
    context=st.integers(1, 2048),
    implementation=st.sampled_from(["torch", "fundamentals"]),
)


@settings(max_examples=30)
@given(shapes, st.integers(1, 5000))
def test_the_count_is_that_of_any_model(config: ModelConfig, vocab_size: int) -> None:
    assert parameters(config, vocab_size) == numel(config, vocab_size)


@given(st.integers(1, 4096))
def test_a_derived_d_ff_is_the_first_multiple_of_64_from_eight_thirds(half: int) -> None:
    d_ff = ModelConfig(layers=1, heads=1, d_model=2 * half, context=8).d_ff
    assert d_ff % 64 == 0
    assert 3 * (d_ff - 64) < 8 * 2 * half <= 3 * d_ff


def test_training_costs_6_a_matrix_parameter_and_attention_in_full() -> None:
    # Of 235,963,392 parameters all but the 33 norms of 1,024 are matrices; 12 x 16 x 1024 x 1024 is attention.
    assert flops_per_token(load_model_config("236m"), VOCAB) == 6 * (235_963_392 - 33 * 1024) + 201_326_592
    assert flops_per_token(load_model_config("236m"), VOCAB) == 1_616_904_192
    assert flops_per_token(load_model_config("toy"), 100) == 6 * (100 * 32 + 4 * 32**2 + 3 * 32 * 128) + 12 * 32 * 32


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("d_model: 100", "m.yaml:4: d_model: found 100 for 3 heads; allowed: a multiple of 6"),
        ("d_model: 99", "m.yaml:4: d_model: found 99 for 3 heads; allowed: a multiple of 6"),
        ("d_model: 0", "m.yaml:4: d_model: found 0; allowed: greater than 0"),
        ("d_model: 96.0", "m.yaml:4: d_model: found 96.0; allowed: a valid integer"),
        ("d_model: 96\nd_ff: -1", "m.yaml:5: d_ff: found -1; allowed: greater than 0"),
        ("d_model: 96\nnorm_eps: 0", "m.yaml:5: norm_eps: found 0; allowed: greater than 0"),
        ("d_model: 96\nimplementation: jax", "m.yaml:5: implementation: found 'jax'; allowed: 'torch' or"),
        ("d_model: 96\nd_mlp: 9", "m.yaml:5: unknown field 'd_mlp'"),
        ("d_ff: 64", "m.yaml:1: d_model: missing; it must be given"),
    ],
)
def test_a_wrong_file_is_told_its_one_problem(text: str, problem: str) -> None:
    with pytest.raises(UserError) as error:
        validate(ModelConfig, parse_yaml(f"layers: 2\nheads: 3\ncontext: 16\n{text}\n", "m.yaml"))
    assert str(error.value).startswith(problem)
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_told_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"found 'tinny' \(did you mean 'tiny'\?\); allowed: 110m, .*configs/models/"):
        load_model_config("tinny")
