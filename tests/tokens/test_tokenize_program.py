import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grid.cluster import ensure_ray
from lethe.config import CONFIGS, UserError
from lethe.tokens.analysis import make_tokenizer
from lethe.tokens.meta import SPLITS
from lethe.tokens.shards import PARTIAL, TokenData, encode_part, encoded_path, is_finished, tokens_folder
from lethe.tokens.tokenizer import TokenizerConfig, load_tokenizer, parts, tokenizer_folder
from ray_jobs.tokenize import main, tokenize

CONFIG = TokenizerConfig(vocab_size=330)

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    ensure_ray()
    import ray

    yield
    ray.shutdown()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_bytes_after_any_interruption(corpora: dict[str, Path], tmp_path: Path) -> None:
    storage = tmp_path / "undisturbed"
    expected = tokenize(corpora, CONFIG, storage)
    assert sorted(files(expected)) == [
        f"{corpus}/{name}"
        for corpus in ("automotive", "food")
        for name in ("meta.json", "train-00000.bin", "val-00000.bin")
    ]

    # Killed after the tokenizer, one part and half of another.
    storage = tmp_path / "killed"
    tokenizer = make_tokenizer(corpora, CONFIG, storage)
    root = tokens_folder(corpora, CONFIG, storage)
    assert root is not None and root.name == expected.name
    first, second = parts(corpora["food"], "train")
    encode_part(first, load_tokenizer(tokenizer / "tokenizer.json"), encoded_path(root, "food", "train", first))
    encoded_path(root, "food", "train", second).write_bytes(b"half")
    assert tokenize(corpora, CONFIG, storage) == root
    assert files(root) == files(expected)

    # Killed while the last corpus was joined: the other one stays untouched.
    (root / "food" / "meta.json").unlink()
    (root / "food" / "train-00001.bin").write_bytes(b"of another layout")
    (root / PARTIAL).mkdir()
    written = (root / "automotive" / "meta.json").stat().st_mtime_ns
    assert not is_finished(root, corpora)
    assert tokenize(corpora, CONFIG, storage) == root
    assert files(root) == files(expected)
    assert (root / "automotive" / "meta.json").stat().st_mtime_ns == written


def test_finished_shards_are_found_without_ray(corpora: dict[str, Path], tmp_path: Path) -> None:
    root = tokenize(corpora, CONFIG, tmp_path)
    script = (
        "import sys; from pathlib import Path; from ray_jobs.tokenize import *\n"
        f"print(tokenize({corpora!r}, TokenizerConfig(vocab_size=330), {tmp_path!r}), 'ray' in sys.modules)"
    ).replace("PosixPath", "Path")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == f"{root} False\n"


def test_what_cannot_serve_is_refused(
    corpora: dict[str, Path], make_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="found no text in its train split"):
        tokenize({"empty": make_corpus("empty", [[""]], [["x"]])}, CONFIG, tmp_path)
    root = tokenize(corpora, CONFIG, tmp_path)
    path = TokenData(root).tokenizer_path
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="not the tokenizer its report.json describes"):
        tokenize(corpora, CONFIG, tmp_path)


def test_shards_outlive_the_folder_of_their_tokenizer(corpora: dict[str, Path], tmp_path: Path) -> None:
    root = tokenize(corpora, CONFIG, tmp_path)
    shards = files(root)
    first = TokenData(root).tokenizer_path.parent
    analysed_otherwise = CONFIG.model_copy(update={"candidates": [350]})
    assert tokenize(corpora, analysed_otherwise, tmp_path) == root
    assert files(root) == shards
    shutil.rmtree(first)
    assert tokenize(corpora, analysed_otherwise, tmp_path) == root
    assert TokenData(root).tokenizer_path.parent == tokenizer_folder(corpora, analysed_otherwise, tmp_path)
    assert {name: ids for name, ids in files(root).items() if name.endswith(".bin")} == {
        name: ids for name, ids in shards.items() if name.endswith(".bin")
    }


def test_the_program_extracts_tokenizes_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = CONFIGS / "grids" / "quickstart.yaml"
    assert main([str(grid), f"storage={tmp_path}", "tokenizer.vocab_size=400", "tokenizer.candidates=[]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines[:3]] == [
        ["vocabulary", "corpus"],
        ["400", "automotive"],
        ["400", "food"],
    ]
    assert lines[6].split()[:2] == ["embedding", "400"] and lines[7].split()[0] == "tiny"
    assert any(line.startswith("recommended: ") for line in lines)
    (tokenizer,) = (tmp_path / "data" / "tokenizers").glob("bpe400-*/")
    assert [*json.loads((tokenizer / "report.json").read_text())["models"]] == ["tiny"]
    assert f"picture    {os.path.relpath(tokenizer / 'report.html')}" in lines
    (root,) = (tmp_path / "data" / "tokens").glob("bpe400-*")
    data = TokenData(root)
    for corpus in data.corpora:
        train, val = (f"{data.split(corpus, split).tokens:,} {split} tokens" for split in SPLITS)
        assert f"{corpus}: {train}, {val}" in lines
