"""Files written whole or not at all, and the fingerprints by which they are known."""

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, to be written; it takes the place of `path` if all goes well.

    What killed processes of this machine have left of earlier tries is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    start = f".{path.name}.{socket.gethostname()}."
    for name in os.listdir(path.parent):  # noqa: PTH208 - faster than iterdir, and folders can be full
        if name.startswith(start) and not _is_alive(name.removeprefix(start)):
            (path.parent / name).unlink(missing_ok=True)
    temporary = path.with_name(f"{start}{_process(os.getpid())}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _process(pid: int) -> str:
    """`PID-BIRTH`, for numbers are used again, by threads too, and soon where many start. No BIRTH without /proc."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return f"{pid}-"
    return "dead" if state in "ZX" else f"{pid}-{fields[18]}"


def _is_alive(process: str) -> bool:
    pid, _, birth = process.partition("-")
    if not pid.isdecimal():
        return False
    if birth or Path("/proc/self/stat").exists():
        return process == _process(int(pid))
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; equal values give equal bytes."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def sha256(path: Path) -> str:
    """Of a file's bytes, as 64 hexadecimal characters."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any, length: int = 16) -> str:
    """The first characters of the sha256 of a JSON value, hexadecimal."""
    return digest(canonical(value), length)


def canonical(value: Any) -> str:
    """A JSON value as the one text that stands for it."""
    return _CANONICAL.encode(value)


def digest(text: str, length: int = 16) -> str:
    """The first characters of the sha256 of a text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]
