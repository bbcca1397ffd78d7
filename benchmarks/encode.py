"""Encoding Parquet files to token shards, side by side with datatrove: CPU-seconds of one warm process each.

Every file is encoded once by each, in turn, so that no cache holds its text; the first trains the tokenizer and warms
both. datatrove lives in an environment of its own, named by `--datatrove PYTHON`; without it its figures are null.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

VOCAB_SIZE = 32_768
TRAINING_BYTES = 20_000_000
RIVAL = Path(__file__).with_name("encode_rival.py")


class Rival:
    """A script under another Python: asked by a line of JSON, it answers by one."""

    def __init__(self, python: Path, script: Path) -> None:
        self._process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.communicate()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer; RuntimeError where the script ended instead."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(job, default=str), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the rival ended with exit code {self._process.wait()}; its message stands above")
        return json.loads(answer)


def tokenize_vs_datatrove(files: list[Path], datatrove: Path | None, folder: Path) -> dict[str, Any]:
    """The figures of encoding the `text` of Parquet files, at least two, of which `folder` takes the results.

    `tokenize_vs_datatrove`: datatrove's CPU-seconds over ours, the median of the files, null without datatrove (the
    path of its environment's Python); `minimum` and `maximum` of the same; `same_ids`: whether both wrote the same
    bytes for every file; `encoder`: what ours encoded with; `megatokens_per_cpu_s` of ours, of `reference` (ours with
    tokenizers alone) and of datatrove; `megabytes` and `tokens` of text; `note`: why the ratio is what it is.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # of ours as of the rival
    from lethe.tokens.encode import encoders
    from lethe.tokens.tokenizer import save_tokenizer, train

    path = folder / "tokenizer.json"
    save_tokenizer(train(_texts(files[0]), VOCAB_SIZE), path)
    tokenizer, fast, how = encoders(path)
    lanes: dict[str, Callable[[Path], tuple[float, Path]]] = {
        "ours": lambda source: _encode(source, tokenizer, folder / f"ours-{source.stem}.bin", fast),
        "reference": lambda source: _encode(source, tokenizer, folder / f"reference-{source.stem}.bin", None),
    }
    if datatrove is None:
        rounds = [{name: lane(source) for name, lane in lanes.items()} for source in files]
    else:
        with Rival(datatrove, RIVAL) as rival:
            lanes["datatrove"] = lambda source: _ask(rival, source, path, folder / f"datatrove-{source.stem}")
            rounds = [{name: lane(source) for name, lane in lanes.items()} for source in files]
    return _figures(rounds[1:], how, sum(map(_text_bytes, files[1:])))


def _texts(file: Path) -> Any:
    from lethe.tokens.tokenizer import text_batches

    size = 0
    for batch in text_batches(file):
        for text in filter(None, batch.to_pylist()):
            size += len(text)
            if size <= TRAINING_BYTES:
                yield text


def _text_bytes(file: Path) -> int:
    import pyarrow.compute as pc

    from lethe.tokens.tokenizer import text_batches

    return sum(pc.sum(pc.binary_length(batch)).as_py() or 0 for batch in text_batches(file))


def _encode(source: Path, tokenizer: Any, path: Path, fast: Any) -> tuple[float, Path]:
    from lethe.tokens.shards import encode_part

    start = time.process_time()
    note = encode_part(source, tokenizer, path, fast)
    seconds = time.process_time() - start
    if note:
        print(note)
    return seconds, path


def _ask(rival: Rival, source: Path, tokenizer: Path, folder: Path) -> tuple[float, Path]:
    job = {"source": source.resolve(), "tokenizer": tokenizer.resolve(), "folder": folder.resolve()}
    result = rival.ask(job)
    return result["seconds"], Path(result["ids"])


def _figures(rounds: list[dict[str, tuple[float, Path]]], how: str, size: int) -> dict[str, Any]:
    tokens = sum(each["ours"][1].stat().st_size // 2 for each in rounds)
    rates = {name: tokens / 1e6 / sum(each[name][0] for each in rounds) for name in rounds[0]}
    ratios = [each["datatrove"][0] / each["ours"][0] for each in rounds if "datatrove" in each]
    return {
        "tokenize_vs_datatrove": statistics.median(ratios) if ratios else None,
        "minimum": min(ratios, default=None),
        "maximum": max(ratios, default=None),
        "same_ids": all(len({path.read_bytes() for _, path in each.values()}) == 1 for each in rounds),
        "encoder": how,
        "megatokens_per_cpu_s": {"datatrove": None, **rates},
        "megabytes": size / 1e6,
        "tokens": tokens,
        "note": f"ours encodes {how}; reading, writing and the check of one document in a hundred are included",
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, metavar="GLOB", help="Parquet files with a text column, two or more")
    parser.add_argument("--datatrove", type=Path, metavar="PYTHON", help="of the environment that has datatrove")
    given = parser.parse_args()
    pattern = Path(given.source)
    files = sorted(pattern.parent.glob(pattern.name))
    if len(files) < 2:
        parser.error(f"--source: found {len(files)} files at {given.source}; allowed: two or more")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(tokenize_vs_datatrove(files, given.datatrove, Path(folder))))


if __name__ == "__main__":
    main()
