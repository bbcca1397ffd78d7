"""A written configuration is one that the programs accept, with the numbers of the rules it names."""

import subprocess
import sys
from pathlib import Path

import pytest

from grid.spec import load_grid
from grid.tree import Tree
from lethe import configure
from lethe.config import CONFIGS, UserError, read_yaml, validate
from lethe.devices import room
from lethe.model.config import load_model_config
from lethe.train import TrainConfig

GRID = ["grid", "--models", "tiny", "--corpora", "food", "automotive", "--tokenizer", "2048"]
TRAIN = ["train", "--model", "tiny", "--corpus", "food", "--tokenizer", "bpe2048"]
SIZES = sorted(path.stem for path in (CONFIGS / "models").glob("*.yaml"))


def written(tmp_path: Path, arguments: list[str]) -> Path:
    out = tmp_path / "made.yaml"
    assert configure.main([*arguments, "--out", str(out), "--force"]) == 0
    return out


def refused(arguments: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        configure.main(arguments)
    return str(caught.value)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("vocab_size", [2048, 32768])
def test_a_grid_of_any_size_is_valid_and_fits(tmp_path: Path, name: str, vocab_size: int):
    arguments = ["grid", "--models", name, "--corpora", "food", "automotive", "--tokenizer", str(vocab_size)]
    grid = load_grid(written(tmp_path, [*arguments, "--gpu", "40"]))
    plan = Tree(grid).plan()
    assert (list(grid.corpora), list(grid.models)) == (["food", "automotive"], [name])
    assert grid.stage.tokens == 20 * plan["models"][name]["parameters"]
    assert grid.resources_of(name).gpus == 1
    assert Tree(grid).memory_of(name).together <= 40 * 2**30
    assert grid.stage.batch % grid.resources_of(name).micro_batch == 0
    assert {cell.baseline for cell in Tree(grid).cells} == {"sequential_ab", "sequential_ba", "combined"}


@pytest.mark.parametrize("name", SIZES)
def test_a_training_of_any_size_is_valid(tmp_path: Path, name: str):
    arguments = ["train", "--model", name, "--corpus", "automotive", "--tokenizer", "32768", "--gpu", "80"]
    config = validate(TrainConfig, read_yaml(written(tmp_path, arguments)))
    assert config.model == load_model_config(name)
    assert (config.tokens, config.mixture, config.device) == ("bpe32768", {"automotive": 1}, "cuda")
    assert config.micro_batch and config.stage.batch % config.micro_batch == 0


def test_on_cpus_the_micro_batch_fits_a_workers_share_of_this_machine(tmp_path: Path):
    grid = load_grid(written(tmp_path, GRID))
    have = room(cpus=1, gpus=0).bytes
    assert have is not None
    assert Tree(grid).memory_of("tiny").together <= have
    assert validate(TrainConfig, read_yaml(written(tmp_path, TRAIN))).device == "cpu"


def test_batch_and_rate_follow_the_named_fit_in_its_own_range(tmp_path: Path):
    arguments = ["train", "--model", "236m", "--corpus", "food", "--tokenizer", "32768", "--gpu", "80"]
    stage = validate(TrainConfig, read_yaml(written(tmp_path, arguments))).stage
    # C = (72 n d^2 + 12 n d l) tokens, the paper's M D for our block, whose d_ff 2752 is a little over 8/3 d.
    compute = (6 * 16 * (4 * 1024**2 + 3 * 1024 * 2752) + 12 * 16 * 1024 * 1024) * 20 * 235_963_392
    assert 1e17 < compute < 2e19
    assert 2**-0.5 <= stage.batch * 1024 / (0.2920 * compute**0.3271) <= 2**0.5
    assert stage.learning_rate == pytest.approx(0.3118 * compute**-0.1250, rel=0.05)


def test_tokens_can_be_given_and_the_largest_of_several_models_counts(tmp_path: Path):
    several = ["grid", "--models", "toy", "small", "tiny", *GRID[3:]]
    plan = Tree(load_grid(written(tmp_path, several))).plan()
    assert plan["config"]["stage"]["tokens"] == 20 * max(model["parameters"] for model in plan["models"].values())
    assert load_grid(written(tmp_path, [*several, "--tokens", "1_000_000"])).stage.tokens == 1_000_000


@pytest.mark.parametrize("corpora", [["food"], ["automotive", "food"]])
def test_other_numbers_and_orders_of_corpora(tmp_path: Path, corpora: list[str]):
    grid = load_grid(written(tmp_path, ["grid", "--models", "tiny", "--tokenizer", "2048", "--corpora", *corpora]))
    assert list(grid.corpora) == corpora
    assert list(Tree(grid).cells[0].stages[0].mixture) == corpora[:1]


@pytest.mark.parametrize("source", ["hf://datasets/a/b/*.parquet", 'it\'s "here": #1/ü\\*.parquet', "no", "12"])
def test_a_source_comes_back_as_it_was_given(tmp_path: Path, source: str):
    assert load_grid(written(tmp_path, [*GRID, "--source", source])).source == source


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grid", "--models", "tinny", *GRID[3:]], "--models: found 'tinny' (did you mean 'tiny'?); allowed: 110m, "),
        (
            [*GRID[:4], "foood", *GRID[6:]],
            "--corpora: found 'foood' (did you mean 'food'?); allowed: automotive, fiction, food",
        ),
        ([*GRID[:-1], "32k"], "--tokenizer: found '32k'; allowed: the size of a vocabulary, as 32768 or bpe32768"),
        ([*GRID[:-1], "100"], "--tokenizer: vocab_size: found 100; allowed: "),
        ([*GRID, "--tokens", "511"], "--tokens: found 511; allowed: at least one step's, 512"),
        (
            ["train", "--model", "236m", "--corpus", "food", "--tokenizer", "32768", "--gpu", "1"],
            "model 236m: found a need of ",
        ),
        ([*TRAIN, "--out", "a b.yaml"], "--out: found 'a b.yaml'; allowed: letters, digits"),
        ([*TRAIN, "--out", "a..yaml"], "--out: found 'a..yaml'; allowed: letters, digits"),
        ([*TRAIN, "--out", "nowhere/at/all.yaml"], "--out: nowhere/at/all.yaml: cannot be written: No such file"),
    ],
)
def test_what_cannot_serve_is_refused_with_what_can(arguments: list[str], message: str):
    assert refused(arguments).startswith(message)


def test_a_file_is_replaced_only_when_told(tmp_path: Path):
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    assert "allowed: another name, or --force" in refused([*GRID, "--out", str(out)])
    assert out.read_text() == "mine"
    assert configure.main([*GRID, "--out", str(out), "--force"]) == 0
    assert load_grid(out).name == "mine"


def test_the_program_prints_what_it_would_write_and_the_plan_takes_it(tmp_path: Path):
    arguments = [*GRID, "--tokens", "150000"]
    program = [sys.executable, "-m", "lethe.configure", *arguments]
    text = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert text.splitlines()[0] == f"# Made by: python -m lethe.configure {' '.join(arguments)}"
    assert all(f"{field} # " in text or f"{field}: " in text for field in ("tokens", "batch", "learning_rate"))
    (tmp_path / "printed.yaml").write_text(text)
    plan = [sys.executable, "-m", "ray_jobs.run_grid", str(tmp_path / "printed.yaml"), f"storage={tmp_path}", "--plan"]
    assert "printed: 14 cells, 18 stages" in subprocess.run(plan, capture_output=True, text=True, check=True).stdout


def test_bad_numbers_exit_with_2():
    for extra in (["--tokens", "-4"], ["--gpu", "0"], ["--surprise"]):
        with pytest.raises(SystemExit) as caught:
            configure.main([*GRID, *extra])
        assert caught.value.code == 2
