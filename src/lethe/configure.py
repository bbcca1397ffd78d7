"""Write a ready YAML from a model, a corpus and a tokenizer, every number with its reason as a comment.

python -m lethe.configure grid  --models 13m 27m --corpora food automotive --tokenizer 32768 --source GLOB --out my.yaml
python -m lethe.configure train --model 13m --corpus food --tokenizer 32768 --out my-train.yaml

A grid's YAML is for `python -m ray_jobs.run_grid`, a training one for `python -m lethe.train`.
"""

import argparse
import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from lethe.config import RawConfig, UserError, named, validate
from lethe.devices import readable, room
from lethe.model.config import ModelConfig, load_model_config
from lethe.model.cost import TOKENS_A_PARAMETER, Memory, flops_per_token, largest_micro_batch, memory, parameters
from lethe.program import run_program

SEQUENCES, MARKS = 64, 10


@dataclass(frozen=True)
class Choice:
    """The numbers derived for one model."""

    name: str
    model: ModelConfig
    vocab_size: int
    tokens: int

    @property
    def parameters(self) -> int:
        return parameters(self.model, self.vocab_size)

    @property
    def compute(self) -> float:
        """FLOPs of a stage without those of embedding and head, as the rule for batch and rate counts them."""
        return float(flops_per_token(self.model, 0) * self.tokens)

    @property
    def batch(self) -> int:
        """Sequences a step: 0.2920 C^0.3271 tokens (DeepSeek LLM, Bi et al. 2024, eq. 1), to a power of two from 8."""
        return max(8, 2 ** round(math.log2(0.2920 * self.compute**0.3271 / self.model.context)))

    @property
    def learning_rate(self) -> float:
        """0.3118 C^-0.1250 (the same equation), two digits."""
        return float(f"{0.3118 * self.compute**-0.1250:.1e}")

    @property
    def steps(self) -> int:
        return max(1, round(self.tokens / (self.batch * self.model.context)))


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    given = _arguments(argv)
    vocab_size = _vocab_size(given.tokenizer)
    for corpus in given.corpora:
        _known("corpora", corpus)
    models = {name: _model(name) for name in dict.fromkeys(given.models)}
    largest = max(models, key=lambda name: parameters(models[name], vocab_size))
    tokens = given.tokens or TOKENS_A_PARAMETER * parameters(models[largest], vocab_size)
    choice = Choice(largest, models[largest], vocab_size, tokens)
    step = choice.batch * max(model.context for model in models.values())
    if tokens < step:
        raise UserError(f"--tokens: found {tokens:,}; allowed: at least one step's, {step:,}")
    rows = {name: _micro_batch(name, model, choice, given.gpu) for name, model in models.items()}
    head = f"# Made by: python -m lethe.configure {shlex.join(argv)}\n"
    text = head + (_grid(given, choice, rows) if given.kind == "grid" else _train(given, choice, rows[largest]))
    _write(text, given.out, given.force)
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        prog="python -m lethe.configure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = result.add_subparsers(dest="kind", required=True)
    grid = kinds.add_parser("grid", help="orders, interleaving ratios and seeds, for ray_jobs.run_grid")
    grid.add_argument("--models", nargs="+", required=True, metavar="NAME", help="configs/models/NAME.yaml")
    grid.add_argument("--corpora", nargs="+", required=True, metavar="NAME", help="in order; configs/corpora/NAME.yaml")
    grid.add_argument("--source", default="sample", help="a folder, a glob or a URI; default: sample")
    train = kinds.add_parser("train", help="one stage from scratch, for lethe.train")
    train.add_argument(
        "--model", nargs=1, required=True, metavar="NAME", dest="models", help="configs/models/NAME.yaml"
    )
    train.add_argument("--corpus", nargs=1, required=True, metavar="NAME", dest="corpora", help="one of the shards")
    for kind in (grid, train):
        kind.add_argument("--tokenizer", required=True, metavar="SIZE", help="of its vocabulary: 32768 or bpe32768")
        kind.add_argument(
            "--tokens", type=_positive, help=f"of a stage; default: {TOKENS_A_PARAMETER} a parameter, largest model"
        )
        kind.add_argument(
            "--gpu", type=_positive, metavar="GIB", help="train on GPUs of this much memory; default: on CPUs like here"
        )
        kind.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
        kind.add_argument("--force", action="store_true", help="replace FILE if it is there")
    return result.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text.replace("_", ""))
    if number < 1:
        raise ValueError
    return number


_positive.__name__ = "number above 0"  # argparse names the type of what it refuses


def _vocab_size(tokenizer: str) -> int:
    from lethe.tokens.tokenizer import TokenizerConfig

    found = re.fullmatch(r"(?:bpe)?([0-9]+)", tokenizer)
    if not found:
        raise UserError(f"--tokenizer: found {tokenizer!r}; allowed: the size of a vocabulary, as 32768 or bpe32768")
    size = int(found[1])
    return validate(TokenizerConfig, RawConfig("--tokenizer", {"vocab_size": size}, {})).vocab_size


def _known(kind: str, name: str) -> None:
    try:
        named(kind, name)
    except ValueError as error:
        raise UserError(f"--{kind}: {error}") from None


def _model(name: str) -> ModelConfig:
    _known("models", name)
    return load_model_config(name)


def _micro_batch(name: str, model: ModelConfig, choice: Choice, gpu: int | None) -> int:
    """The sequences at once that fit; UserError where not even one does."""
    have = gpu * 2**30 if gpu else room(cpus=1, gpus=0).bytes
    assert have is not None

    def need(rows: int) -> Memory:
        return memory(model, choice.vocab_size, rows=rows, precision="fp32", held_out=SEQUENCES, gpu=bool(gpu))

    rows = largest_micro_batch(choice.batch, have, need)
    if rows is None:
        raise UserError(
            f"model {name}: found a need of {readable(need(1).together)} for one sequence at once; allowed: "
            f"{readable(have)}, what a worker has {'on a GPU' if gpu else 'here'}: a smaller model or tokenizer, "
            "or --gpu GIB"
        )
    return rows


def _grid(given: argparse.Namespace, choice: Choice, rows: dict[str, int]) -> str:
    corpora = list(dict.fromkeys(given.corpora))
    several = ", of the largest model: the others see more of each" if len(rows) > 1 else ""
    gpus = "gpus: 1, " if given.gpu else ""
    resources = "\n".join(f"  {name}: {{{gpus}micro_batch: {n}}}" for name, n in rows.items())
    return f"""\
source: {json.dumps(given.source)}
corpora: [{", ".join(corpora)}]
tokenizer: {{vocab_size: {choice.vocab_size}}}
models: [{", ".join(rows)}]
baselines:
{_baselines(corpora)}
interleaving_ratios: [0, 0.05, 0.25] # plain, and a little and much of the earlier corpora in the later stage
seeds: [0, 1] # the least that shows how far a result is chance
stage:
{_stage(choice, bool(given.tokens), several)}
resources:
  # micro_batch: the most sequences at once, among the divisors of the batch, that fit in {_room(given.gpu)}
{resources}
"""


def _train(given: argparse.Namespace, choice: Choice, rows: int) -> str:
    return f"""\
tokens: bpe{choice.vocab_size} # the newest shards of that tokenizer in data/tokens
model: {choice.name}
mixture: {{{given.corpora[0]}: 1}}
seed: 0
stage:
{_stage(choice, bool(given.tokens), "")}
device: {"cuda" if given.gpu else "cpu"}
micro_batch: {rows} # the most sequences at once, among the divisors of the batch, that fit in {_room(given.gpu)}
"""


def _baselines(corpora: list[str]) -> str:
    if len(corpora) == 2:
        return "  - sequential_ab\n  - sequential_ba\n  - combined"
    together = ", ".join(f"{corpus}: 1" for corpus in corpora)
    in_order = f"  - in_order: [{', '.join(corpora)}]"
    return in_order if len(corpora) == 1 else f"{in_order}\n  - combined: [{{{together}}}]"


def _stage(choice: Choice, tokens_given: bool, several: str) -> str:
    why = "as given" if tokens_given else f"{TOKENS_A_PARAMETER} a parameter (Hoffmann et al. 2022)"
    every = max(1, choice.steps // 20)
    return f"""\
  # Tokens of a corpus: {why}{several}.
  tokens: {choice.tokens:_} # {choice.steps:,} steps of {choice.name}, which has {choice.parameters:,} parameters
  # Batch and rate by the fit of DeepSeek LLM (Bi et al. 2024, eq. 1) to the {choice.compute:.2g} FLOPs of such a stage
  # without embedding and head: 0.292 C^0.3271 tokens, 0.3118 C^-0.125. It was fitted to 1e17 to 2e19: a start, no more.
  batch: {choice.batch} # sequences of {choice.model.context}, to a power of two from 8
  learning_rate: {choice.learning_rate:g}
  precision: fp32 # exact everywhere; bf16 is faster where the device has it
  evaluation: {{sequences: {SEQUENCES}, marks: {MARKS}}} # {SEQUENCES * choice.model.context:,} held-out tokens a corpus
  checkpoint_every: {every} # steps: a kill costs at most a twentieth of a stage"""


def _room(gpu: int | None) -> str:
    return f"{gpu} GiB of a GPU" if gpu else f"the {readable(room(cpus=1, gpus=0).bytes)} of a worker here"


def _write(text: str, out: Path | None, force: bool) -> None:
    if out is None:
        print(text, end="")
        return
    from lethe.corpora.named import NAME  # slow to import, and needed here alone

    if not re.fullmatch(NAME, out.stem):
        raise UserError(f"--out: found {out.name!r}; allowed: letters, digits, '_', '.' and '-' (it names the results)")
    if out.exists() and not force:
        raise UserError(f"--out: found {out}, which is there; allowed: another name, or --force to replace it")
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out: {out}: cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    run_program(main)
