"""Read by every process of a program that the benchmark disturbs (this folder is on its PYTHONPATH).

CHAOS_TRACE=FILE      every training step adds a line `KEY STEP` to the file
CHAOS_ROWS=FILE       every row that is read for a step adds a line `STAGE SLOT WORLD CRC32` to the file
CHAOS_RAISE=RANK:STEP:KEY  that rank raises ValueError at that step of that stage
CHAOS_PATIENCE=SECONDS     the driver waits no longer than that for MLflow when all else is done
CHAOS_REPLACE=KIND:N:PART  at the N-th file that takes its place and has PART in its path, counted over all processes
                      in CHAOS_COUNT (a folder): `kill` this process, or raise OSError with KIND (ENOSPC) as its number
CHAOS_SLOW=SECONDS    every file that takes its place waits so long before, so that a kill can meet it in mid file
CHAOS_LATE=SECONDS:FOLDER  a file that is new in a stage's folder is there for other processes only so much later, as
                      for clients of NFS that have looked in vain before; FOLDER holds who wrote what
CHAOS_CLOCK=SECONDS   the clock on the wall is that much ahead
"""

import builtins
import errno
import io
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

_replace = os.replace


class _Changed(MetaPathFinder, Loader):
    """Loads some modules of the program so that they tell what they do, or do it otherwise."""

    def __init__(self, changes: Mapping[str, Callable[[Any], None]]) -> None:
        self.changes, self.loaders = changes, dict[str, Any]()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.changes:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec and spec.loader:
            self.loaders[name], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: Any) -> Any:
        return None

    def exec_module(self, module: Any) -> None:
        self.loaders[module.__name__].exec_module(module)
        self.changes[module.__name__](module)


def _tell(variable: str, text: str) -> None:
    if file := os.environ.get(variable):
        with open(file, "a") as lines:  # noqa: PTH123 - one write of a few lines is whole
            lines.write(text)


def _training(module: Any) -> None:
    train_step, at = module.Training.train_step, os.environ.get("CHAOS_RAISE")

    def changed(training: Any) -> Any:
        worker, step, key = training.worker, training.state.step, training.job.key
        if worker.leads:
            _tell("CHAOS_TRACE", f"{key} {step}\n")
        if at == f"{worker.rank}:{step}:{key}":
            raise ValueError(f"it was told to raise at step {step}")
        return train_step(training)

    module.Training.train_step = changed


def _sampler(module: Any) -> None:
    rows = module.MixtureSampler.rows

    def changed(sampler: Any, step: int, rank: int = 0, world: int = 1) -> Any:
        read = rows(sampler, step, rank, world)
        first, stage = step * sampler.stage.recipe.batch + rank * len(read), sampler.stage.identity
        lines = [f"{stage} {first + i} {world} {zlib.crc32(row.tobytes())}\n" for i, row in enumerate(read)]
        _tell("CHAOS_ROWS", "".join(lines))
        return read

    module.MixtureSampler.rows = changed


def _tracking(module: Any) -> None:
    module.Tracker.close.__defaults__ = (float(os.environ["CHAOS_PATIENCE"]),)


def _disturbed(kind: str, wanted: int, part: str, count: Path) -> Any:
    def replace(source: Any, target: Any, **given: Any) -> None:
        if part in str(target):
            (count / f"{time.monotonic_ns()}-{os.getpid()}").touch()
            if len(list(count.iterdir())) == wanted:
                if kind == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                number = getattr(errno, kind)
                raise OSError(number, os.strerror(number), str(target))
        _replace(source, target, **given)

    return replace


def _slow(*given: Any, **named: Any) -> None:
    time.sleep(float(os.environ["CHAOS_SLOW"]))
    _replace(*given, **named)


def _late(seconds: float, folder: Path) -> None:
    """Python's own looks at files alone are disturbed; whatever reads them otherwise looks with these before."""
    stat, scan, list_names, opened, replace = os.stat, os.scandir, os.listdir, io.open, os.replace

    def is_there(path: Any) -> bool:
        with suppress(OSError):
            return bool(stat(path))
        return False

    def note(path: Any) -> str:
        return f"{folder}/{zlib.crc32(os.fsencode(path)):08x}"

    def is_hidden(path: Any) -> bool:
        if isinstance(path, int) or "/stages/" not in str(path):
            return False
        try:
            age = time.time() - stat(note(path)).st_mtime
            with opened(note(path)) as file:
                return age < seconds and file.read() != str(os.getpid())
        except OSError:
            return False

    def looking(look: Any) -> Any:
        def looks(path: Any, *given: Any, **named: Any) -> Any:
            if is_hidden(path):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            return look(path, *given, **named)

        return looks

    def replaced(source: Any, target: Any, **given: Any) -> None:
        if "/stages/" in str(target) and not is_there(target):
            with opened(note(target), "w") as file:
                file.write(str(os.getpid()))
        replace(source, target, **given)

    def names(path: Any = ".") -> list[str]:
        return [name for name in list_names(path) if not is_hidden(f"{path}/{name}")]

    def entries(path: Any = ".") -> Any:
        return _Entries(entry for entry in scan(path) if not is_hidden(entry.path))

    os.stat, os.lstat, os.open = looking(stat), looking(os.lstat), looking(os.open)
    io.open = builtins.open = looking(opened)
    changed: dict[str, Any] = {"listdir": names, "scandir": entries, "replace": replaced}
    vars(os).update(changed)


class _Entries:
    """What os.scandir gives."""

    def __init__(self, entries: Any) -> None:
        self.entries = entries

    def __iter__(self) -> Any:
        return self.entries

    def __next__(self) -> Any:
        return next(self.entries)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *given: Any) -> None:
        self.close()

    def close(self) -> None:
        self.entries.close()


_CHANGES = {
    "CHAOS_TRACE": ("lethe.training.loop", _training),
    "CHAOS_RAISE": ("lethe.training.loop", _training),
    "CHAOS_ROWS": ("lethe.training.sampler", _sampler),
    "CHAOS_PATIENCE": ("grid.tracking", _tracking),
}
if _asked := dict(change for variable, change in _CHANGES.items() if variable in os.environ):
    sys.meta_path.insert(0, _Changed(_asked))
if "CHAOS_REPLACE" in os.environ:
    _kind, _n, _part = os.environ["CHAOS_REPLACE"].split(":")
    os.replace = _disturbed(_kind, int(_n), _part, Path(os.environ["CHAOS_COUNT"]))
if "CHAOS_SLOW" in os.environ:
    os.replace = _slow
if "CHAOS_CLOCK" in os.environ:
    _time, _ahead = time.time, float(os.environ["CHAOS_CLOCK"])
    time.time = lambda: _time() + _ahead
if "CHAOS_LATE" in os.environ:
    _seconds, _, _folder = os.environ["CHAOS_LATE"].partition(":")
    _late(float(_seconds), Path(_folder))
