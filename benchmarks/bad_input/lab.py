"""What the cases share: a storage in which corpora, tokens and stages lie, made once by the programs themselves."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lethe.progress import say

GRID: dict[str, Any] = {
    "corpora": ["food", "automotive"],
    "tokenizer": {"vocab_size": 512},
    "models": ["toy"],
    "baselines": [{"only": ["food"]}],
    "stage": {"tokens": 20_480, "batch": 8, "learning_rate": 6e-3, "evaluation": {"sequences": 8, "marks": 2}},
}
# On documents of its own, so that corpus, tokenizer and shards can be made without Ray.
TRAIN: dict[str, Any] = {
    "corpora": {"other": {"dataset": {"path": "documents.jsonl"}}},
    "tokenizer": {"vocab_size": 400},
    "model": "toy",
    "mixture": {"other": 1},
    "stage": GRID["stage"] | {"checkpoint_every": 10},
}
ON_TOKENS: dict[str, Any] = {"tokens": "bpe512", "model": "toy", "mixture": {"food": 1}, "stage": GRID["stage"]}
NAMES, THINGS = ["Tom", "Lily", "Ben", "Mia"], ["ball", "kite", "cat", "boat", "cake", "frog", "tree", "hat"]


def documents(count: int = 200) -> list[str]:
    rng = random.Random(0)
    sentences = (
        f"{rng.choice(NAMES)} gave the {rng.choice(THINGS)} to {rng.choice(NAMES)}." for _ in range(10 * count)
    )
    return [f"{number}: " + " ".join(next(sentences) for _ in range(10)) for number in range(count)]


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def once(make: Callable[["Lab"], Any]) -> property:
    """A property that is made when it is asked for first, while whoever else asks for it waits."""

    def get(lab: "Lab") -> Any:
        with lab.lock:
            if make not in lab.made:
                lab.made[make] = make(lab)
            return lab.made[make]

    return property(get, doc=make.__doc__)


@dataclass
class Lab:
    """A folder for what is made once."""

    root: Path
    lock: Any = field(default_factory=threading.RLock)
    made: dict[Any, Any] = field(default_factory=dict)

    @once
    def storage(self) -> Path:
        """A finished grid of one stage, token shards of documents of one's own, and a finished stage on those."""
        storage = self.root / "storage"
        storage.mkdir()
        say(f"preparing {storage}")
        write_lines(storage / "documents.jsonl", [{"text": text} for text in documents()])
        for program, config in (("ray_jobs.run_grid", GRID), ("lethe.train", TRAIN)):
            self._program(program, config, storage)
        return storage

    @once
    def grid_stage(self) -> str:
        """The key of the grid's stage."""
        plan = json.loads((self.storage / "runs" / "grid" / "plan.json").read_text())
        (stage,) = plan["stage_list"]
        return str(stage["key"])

    @once
    def stage(self) -> str:
        """The key of the stage that was trained without Ray."""
        folders = (self.storage / "runs" / "stages").glob("*/stage.json")
        (key,) = (path.parent.name for path in folders if path.parent.name != self.grid_stage)
        return key

    @once
    def partial(self) -> Path:
        """Two checkpoints of that stage, from a program that was killed."""
        storage = self.root / "interrupted"
        storage.mkdir()
        for name in ("data", "documents.jsonl"):
            (storage / name).symlink_to(self.storage / name)
        folder = storage / "runs" / "stages" / self.stage / "partial"
        with subprocess.Popen(self._command("lethe.train", TRAIN, storage), stdout=subprocess.DEVNULL) as program:
            while program.poll() is None and len(list(folder.glob("*/state.json"))) < 2:
                time.sleep(0.002)
            program.kill()
        if len(list(folder.glob("*/state.json"))) < 2:
            raise RuntimeError(f"no two checkpoints in {folder}: the stage ended before it could be interrupted")
        return folder

    def _program(self, program: str, config: dict[str, Any], storage: Path) -> None:
        done = subprocess.run(self._command(program, config, storage), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} failed on good input:\n{done.stdout}{done.stderr}")

    def _command(self, program: str, config: dict[str, Any], storage: Path) -> list[str]:
        path = self.root / ("grid.yaml" if program.startswith("ray_jobs") else "train.yaml")
        path.write_text(yaml.safe_dump(config))
        return [sys.executable, "-m", program, str(path), f"storage={os.path.abspath(storage)}"]  # noqa: PTH100
