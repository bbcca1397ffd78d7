"""Look at a finished stage: its losses, its most and least likely documents and a few samples, or (with --prompt,
--chat) what it makes of your text.

These models were trained to go on with a text, not to answer: a prompt is a beginning, and each line of a chat stands
alone.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from lethe.config import UserError
from lethe.finished import FinishedStage, add_arguments, open_stage
from lethe.program import run_program
from lethe.tokens.tokenizer import EOS_ID

if TYPE_CHECKING:
    from numpy import ndarray
    from tokenizers import Tokenizer

PROMPT_TOKENS = 16
DOCUMENTS = 512
EXTREMES = 3
TEXT_WIDTH = 80


class Sampling(NamedTuple):
    """How text is drawn; `lethe.model.generate` says what each means."""

    tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int

    def __str__(self) -> str:
        if self.temperature == 0:
            return "always the likeliest token"
        top_k = f", top {self.top_k}" if self.top_k else ""
        top_p = f", top-p {self.top_p:g}" if self.top_p < 1 else ""
        return f"temperature {self.temperature:g}{top_k}{top_p}, seed {self.seed}"


def main(argv: list[str]) -> int:
    """Show a stage, go on with a prompt, or chat."""
    given = _parser().parse_args(argv)
    sampling = Sampling(given.tokens, given.temperature, given.top_k, given.top_p, given.seed)
    finished = open_stage(given.checkpoint, given.config)
    if given.chat:
        chat(finished, sampling)
    elif given.prompt is not None:
        prompt = given.prompt.encode(errors="replace").decode()  # an argument may hold bytes that are no text
        print(prompt, end="")
        write(finished, prompt, sampling)
    else:
        show(finished, sampling)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lethe.validate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--prompt", metavar="TEXT", help="go on with TEXT")
    mode.add_argument("--chat", action="store_true", help="go on with each line of the input, until its end or /quit")
    drawn = parser.add_argument_group("how text is drawn")
    for name, default, kind, low, high, meaning in (
        ("tokens", 100, int, 1, 1_000_000, "at most so many"),
        ("temperature", 0.8, float, 0, 100, "0: the likeliest token, always"),
        ("top-k", 50, int, 0, 1_000_000, "from so many of the likeliest tokens; 0: from all"),
        ("top-p", 1.0, float, 1e-6, 1, "from the smallest set of likeliest tokens that reaches this probability"),
        ("seed", 0, int, 0, 2**32 - 1, "of the draws; each line of a chat has the next one"),
    ):
        drawn.add_argument(
            f"--{name}",
            default=default,
            type=_number(f"--{name}", kind, low, high),
            metavar="N",
            help=f"{meaning} (default: %(default)s)",
        )
    return parser


def _number(name: str, kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    """Reads an argument; UserError where it is no number of this kind from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise UserError(f"{name}: found {text!r}; allowed: {what} from {low:,} to {high:,}")
        return value

    return read


def show(finished: FinishedStage, sampling: Sampling) -> None:
    """Print what the stage is, its losses, its most and least likely documents, and samples."""
    from lethe.evaluation.losses import held_out_rows

    context, data = finished.stage.model.context, finished.data
    rows = {name: held_out_rows(data.split(name, "val"), context, finished.sequences) for name in data.corpora}
    describe(finished)
    show_losses(finished, rows)
    for corpus in data.corpora:
        show_documents(finished, corpus)
    show_samples(finished, rows, sampling)


def describe(finished: FinishedStage) -> None:
    """Print what the stage is: its model, and the sequence of stages that ends in it."""
    model, made = finished.stage.model, finished.record["made_with"]
    count = sum(parameter.numel() for parameter in finished.model.parameters())
    print(f"stage {finished.folder.name}")
    print(
        f"model: {count:,} parameters; {model.layers} layers, {model.heads} heads, d_model {model.d_model}, "
        f"d_ff {model.d_ff}, context {model.context}, vocabulary {finished.record['vocab_size']:,}"
    )
    for number, stage in enumerate(finished.stage.sequence, start=1):
        mixture = " + ".join(f"{share:.0%} {corpus}" for corpus, share in stage.mixture.items())
        kind, parameters = stage.intervention.kind, stage.intervention.parameters
        intervention = " ".join([kind, *(f"{name}={value}" for name, value in parameters.items())])
        tokens = stage.trained_tokens
        print(f"{number}. {mixture}: {tokens:,} tokens in {stage.steps:,} steps, {intervention}, seed {stage.seed}")
    seconds = finished.record["seconds"]["total"]
    print(f"trained with torch {made['torch']} on {made['processor']} in {seconds:.0f} s")


def show_losses(finished: FinishedStage, rows: "dict[str, ndarray]") -> None:
    """Print loss, perplexity and bits per byte of every corpus on its held-out `rows` (int64 [n, context + 1])."""
    from lethe.evaluation.losses import evaluate
    from lethe.worker import Worker

    values = evaluate(finished.model, rows, finished.data.byte_lengths, Worker(device=finished.device))
    width = max(len("corpus"), *map(len, rows))
    print(f"\n{'corpus':{width}}  sequences    loss  perplexity  bits per byte")
    for name in rows:
        loss, bits = values[f"loss/{name}"], values[f"bpb/{name}"]
        print(f"{name:{width}}  {len(rows[name]):9,}  {loss:6.4f}  {math.exp(loss):10,.2f}  {bits:13.4f}")


def show_documents(finished: FinishedStage, corpus: str) -> None:
    """Print the held-out documents of a corpus that the model finds least and most likely."""
    from lethe.evaluation.documents import FEWEST_TOKENS, document_beginnings, score_documents

    context, data = finished.stage.model.context, finished.data
    beginnings = document_beginnings(data.split(corpus, "val"), context, DOCUMENTS)
    documents = score_documents(finished.model, beginnings, data.byte_lengths, finished.device)
    print(
        f"\n{corpus}: the least and the most likely of {len(documents):,} held-out documents "
        f"(of at least {FEWEST_TOKENS} tokens; the first {context} count)"
    )
    print("        loss  bits per byte  text")
    shown = min(EXTREMES, -(-len(documents) // 2))
    for name, extremes in (("least", documents[::-1][:shown]), ("most", documents[:shown])):
        for document in extremes:
            text = one_line(finished.tokenizer.decode(document.ids.tolist()))
            print(f"{name:5}  {document.loss:7.4f}  {document.bits_per_byte:13.4f}  {text}")


def one_line(text: str) -> str:
    """The beginning of a text, harmless for a terminal: spaces for white space, "\ufffd" for what does not print."""
    return harmless(" ".join(text.split())[:TEXT_WIDTH])


def harmless(text: str) -> str:
    """A text that does nothing to a terminal: "\ufffd" for what does not print; lines, tabs, fixed spaces stay."""
    return "".join(c if c.isprintable() or c in "\n\t\xa0" else "\ufffd" for c in text)


def show_samples(finished: FinishedStage, rows: "dict[str, ndarray]", sampling: Sampling) -> None:
    """Print how the model goes on with the beginning of each corpus's held-out text."""
    print(f"\nsamples ({sampling})")
    for corpus, text in rows.items():
        beginning = finished.tokenizer.decode(text[0, : min(PROMPT_TOKENS, text.shape[1] // 2)].tolist())
        print(f"{corpus}: [{harmless(beginning)}]", end="")
        write(finished, beginning, sampling)


def chat(finished: FinishedStage, sampling: Sampling) -> None:
    """Go on with each line of the standard input, until its end or /quit."""
    asks = sys.stdin.isatty()
    if asks:
        print("the model goes on with each line; /quit ends")
    with suppress(KeyboardInterrupt):
        for number in range(sys.maxsize):
            print("> " if asks else "", end="", flush=True)
            line = sys.stdin.buffer.readline().decode(errors="replace")
            if not line or line.strip() == "/quit":
                return
            write(finished, line.strip(), sampling._replace(seed=sampling.seed + number))


def write(finished: FinishedStage, prompt: str, sampling: Sampling) -> None:
    """Print, as it comes, how the model goes on with the prompt, as the beginning of a document."""
    import torch

    from lethe.model.generate import generate

    ids = torch.tensor([[EOS_ID, *finished.tokenizer.encode(prompt).ids]], device=finished.device)
    continuation = generate(
        finished.model,
        ids,
        context=finished.stage.model.context,
        vocab=finished.tokenizer.get_vocab_size(),
        stop=EOS_ID,
        **sampling._asdict(),
    )
    for piece in as_text(finished.tokenizer, continuation):
        print(harmless(piece), end="", flush=True)
    print()


def as_text(tokenizer: "Tokenizer", ids: Iterator[int]) -> Iterator[str]:
    """The text of ids as they come; a character whose bytes are not all there yet is held back."""
    held: list[int] = []
    text, shown = "", 0
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held)
        whole = max(shown, len(text.rstrip("\ufffd")))
        yield text[shown:whole]
        shown = whole
        if whole == len(text):
            held, text, shown = [], "", 0
    yield text[shown:]


if __name__ == "__main__":
    run_program(main)
