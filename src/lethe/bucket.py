"""A storage in a bucket: each machine works on a copy of what it needs, and sends there what it makes.

An object's name is its file's path below the storage. What is finished never changes, and what says that it is finished
(a JSON file, beside or above the rest) travels last: whoever finds it finds the rest.
"""

import shutil
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, wraps
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, ParamSpec

from filelock import FileLock

from lethe.config import UserError
from lethe.files import whole

P = ParamSpec("P")

SMALL = 1 << 20  # bytes; up to here a file may have changed at the same length, so it always travels
AT_ONCE = 8  # files
PIECE = 1 << 24  # bytes
TRIES, FIRST_WAIT = 6, 1.0  # of everything that a bucket is asked; seconds, doubled from try to try


def _patient(ask: Callable[P, None]) -> Callable[P, None]:
    """Ask again where there was no answer, or a bad one; what has travelled does not travel again."""

    @wraps(ask)
    def asked(*given: P.args, **options: P.kwargs) -> None:
        for number in range(TRIES - 1):
            try:
                return ask(*given, **options)
            except OSError:
                time.sleep(FIRST_WAIT * 2**number)
        return ask(*given, **options)

    return asked


@dataclass(frozen=True)
class Bucket:
    """The bucket (and the folder in it) at `uri`, of which `root` is this machine's copy.

    Every method takes paths below `root`, and raises OSError where the bucket does not answer as it should.
    """

    uri: str
    root: Path

    def uri_of(self, path: Path) -> str:
        """The URI of a file or folder of the copy."""
        address, mark, options = self.uri.partition("?")
        return f"{address}/{path.relative_to(self.root).as_posix()}{mark}{options}"

    def check(self) -> None:
        """Write, read and delete one small object; UserError where that fails."""
        name = f".check-{socket.gethostname()}"
        try:
            fs, base = _open(self.uri)
            with fs.open_output_stream(f"{base}/{name}") as sent:
                sent.write(name.encode())
            with fs.open_input_stream(f"{base}/{name}") as got:
                assert got.read() == name.encode()
            fs.delete_file(f"{base}/{name}")
        except (OSError, ValueError) as error:
            raise UserError(
                f"storage: found {self.uri}, where nothing can be written, read and deleted: {error}; allowed: a "
                "bucket that this machine's credentials open, or a path"
            ) from None

    @_patient
    def pull(self, path: Path, *patterns: str) -> None:
        """Get a file, or the files of a folder (whose names match one of the patterns), but what is here already."""
        fs, base = _open(self.uri)
        wanted = patterns or ("*",)
        missing = [
            name
            for name, info in self._there(path).items()
            if any(map(PurePosixPath(name).match, wanted)) and not _is_here(self.root / name, info.size)
        ]

        def get(name: str) -> None:
            with (
                whole(self.root / name) as temporary,
                temporary.open("wb") as file,
                fs.open_input_stream(f"{base}/{name}") as source,
            ):
                shutil.copyfileobj(source, file, PIECE)

        _each(missing, get)

    def pull_once(self, path: Path) -> None:
        """`pull` by one process of this machine, while the others wait."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / "pull.lock"):
            self.pull(path)

    @_patient
    def push(self, path: Path, exactly: bool = False) -> None:
        """Send a file, or all of a folder, but what is there in full length; `exactly`: delete there what is not here.

        Locks and files in the writing stay.
        """
        fs, base = _open(self.uri)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        here = {file.relative_to(self.root).as_posix(): file.stat().st_size for file in files if _travels(file)}
        there = self._there(path)

        def send(name: str) -> None:
            with (self.root / name).open("rb") as file, fs.open_output_stream(f"{base}/{name}") as target:
                shutil.copyfileobj(file, target, PIECE)

        kept = {name for name, size in here.items() if size > SMALL and name in there and there[name].size == size}
        _each(here.keys() - kept, send)
        if exactly:
            for name in sorted(there.keys() - here.keys(), key=_is_last, reverse=True):
                fs.delete_file(f"{base}/{name}")

    def _there(self, path: Path) -> dict[str, Any]:
        """What the bucket has of a file or folder, by name."""
        from pyarrow.fs import FileSelector, FileType

        fs, base = _open(self.uri)
        whole_name = f"{base}/{path.relative_to(self.root).as_posix()}"
        infos = [fs.get_file_info(whole_name)]
        if infos[0].type != FileType.File:
            infos = fs.get_file_info(FileSelector(whole_name, recursive=True, allow_not_found=True))
        return {info.path.removeprefix(f"{base}/"): info for info in infos if info.type == FileType.File}


@cache
def _open(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it."""
    from pyarrow.fs import FileSystem

    fs, base = FileSystem.from_uri(uri)
    return fs, base.rstrip("/")


def _is_here(path: Path, size: int) -> bool:
    with suppress(OSError):
        return size > SMALL and path.stat().st_size == size
    return False


def _travels(path: Path) -> bool:
    return not path.name.startswith(".") and "lock" not in (path.name, path.suffix[1:])


def _is_last(name: str) -> tuple[bool, int]:
    """Sorts what says that something is finished behind that, and the outermost last."""
    path = PurePosixPath(name)
    return path.suffix == ".json", -len(path.parts)


def _each(names: Iterable[str], do: Any) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _, tier in groupby(sorted(names, key=_is_last), _is_last):
            list(pool.map(do, tier))
