"""The program that makes token shards, as it is run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from alone import run_alone

from grid.spec import load_grid
from lethe.config import CONFIGS
from lethe.corpora.make import make_corpora
from lethe.tokens.make import make_tokens
from lethe.tokens.meta import SPLITS
from lethe.tokens.shards import TokenData


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.ray
def test_it_extracts_tokenizes_and_reports_and_without_ray_the_bytes_are_the_same(tmp_path: Path) -> None:
    config = str(CONFIGS / "grids" / "quickstart.yaml")
    given = [f"storage={tmp_path}", "tokenizer.vocab_size=400", "tokenizer.candidates=[]"]
    command = [sys.executable, "-m", "ray_jobs.tokenize", config, *given]
    lines = subprocess.check_output(command, text=True, timeout=240).splitlines()
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

    grid = load_grid(config, given)
    corpora = make_corpora(grid.source, grid.corpora, grid.storage)
    assert files(make_tokens(corpora, grid.tokenizer, tmp_path / "alone")) == files(root)
    again = run_alone("tokenize", config, *given)
    assert (again.returncode, again.stdout.splitlines()) == (0, lines), again.stderr
