"""Make the token shards of a grid: analyse vocabulary sizes, train the tokenizer, encode the corpora.

The corpora are extracted first where they are missing. What is finished is not made again.
"""

import os
import shutil
from pathlib import Path

from filelock import FileLock

from grid.progress import say
from grid.spec import load_grid
from lethe.files import write_json
from lethe.program import parser, run_program
from lethe.tokens.encode import encoders
from lethe.tokens.shards import (
    PARTIAL,
    SPLITS,
    TokenData,
    encode_part,
    encoded_path,
    is_encoded,
    is_finished,
    is_joined,
    join_parts,
    token_dtype,
    tokens_folder,
)
from lethe.tokens.tokenizer import TokenizerConfig, finished_tokenizer, load_tokenizer, parts
from ray_jobs.units import Row, each_unit


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    given = parser(__doc__).parse_intermixed_args(argv)
    grid = load_grid(given.config, given.overrides)
    from lethe.tokens.report import add_models, embedding_table, table
    from ray_jobs.extract import extract

    data = TokenData(
        tokenize(extract(grid.source, grid.corpora, grid.storage, grid.on_bad_file), grid.tokenizer, grid.storage)
    )
    tokenizer = data.tokenizer_path.parent
    report = add_models(tokenizer, grid.models)
    print(table(report["analysis"]))
    print(f"\n{embedding_table({name: report['models'][name] for name in grid.models})}")
    print(f"\nrecommended: {report['recommendation']['reason']}\n")
    for corpus in data.corpora:
        print(f"{corpus}: {', '.join(f'{data.split(corpus, split).tokens:,} {split} tokens' for split in SPLITS)}")
    print(f"tokenizer  {os.path.relpath(tokenizer)}\ntokens     {os.path.relpath(data.root)}")
    print(f"picture    {os.path.relpath(tokenizer / 'report.html')}")
    return 0


def tokenize(corpora: dict[str, Path], config: TokenizerConfig, storage: Path) -> Path:
    """The folder of the token shards of these corpora (names and their folders), made if it is not finished.

    The same corpora and configuration give the same bytes, whatever the workers. A second program on the same
    storage waits for the first. Raises UserError for a corpus without text and for a tokenizer that was altered.
    """
    root = tokens_folder(corpora, config, storage)
    if root and is_finished(root, corpora):
        return root
    (storage / "data").mkdir(parents=True, exist_ok=True)
    with FileLock(storage / "data" / "tokenize.lock"):
        tokenizer = finished_tokenizer(corpora, config, storage) or _make_tokenizer(corpora, config, storage)
        root = tokens_folder(corpora, config, storage)
        assert root is not None
        if not is_finished(root, corpora):
            _make_shards(root, corpora, tokenizer)
            write_json(root.parent / f"bpe{config.vocab_size}.json", {"folder": root.name})
    return root


def _make_tokenizer(corpora: dict[str, Path], config: TokenizerConfig, storage: Path) -> Path:
    from lethe.tokens.analysis import make_tokenizer

    say(f"training a tokenizer of {config.vocab_size:,} ids")
    return make_tokenizer(corpora, config, storage)


def _make_shards(root: Path, corpora: dict[str, Path], tokenizer: Path) -> None:
    missing = {corpus: folder for corpus, folder in corpora.items() if not is_joined(root, corpus, tokenizer)}
    units = _units(root, missing, tokenizer)
    if units:
        _encode(units)
    for corpus, folder in missing.items():
        join_parts(root, corpus, folder, tokenizer)
    shutil.rmtree(root / PARTIAL, ignore_errors=True)


def _units(root: Path, corpora: dict[str, Path], tokenizer: Path) -> list[Row]:
    """The parts that are still to be encoded, each to a file of its own."""
    file = tokenizer / "tokenizer.json"
    dtype = token_dtype(load_tokenizer(file))
    return [
        {"part": str(part), "tokenizer": str(file), "path": str(path)}
        for corpus, folder in corpora.items()
        for split in SPLITS
        for part in parts(folder, split)
        if not is_encoded(path := encoded_path(root, corpus, split, part), dtype)
    ]


def _encode(units: list[Row]) -> None:
    say(f"encoding {len(units)} parts of the corpora {encoders(Path(units[0]['tokenizer'])).how}")
    for done in each_unit(units, _encode_unit):
        if done["note"]:
            say(done["note"])


def _encode_unit(unit: Row) -> Row:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker has one core
    tokenizer, fast, _ = encoders(Path(unit["tokenizer"]))
    return {"note": encode_part(Path(unit["part"]), tokenizer, Path(unit["path"]), fast) or ""}


if __name__ == "__main__":
    run_program(main)
