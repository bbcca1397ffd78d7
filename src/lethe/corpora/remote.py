"""Requests to a remote source: few at a time over a whole machine, tried again with patience, whole or an error.

All processes of a user on a machine share one limiter, a folder below the temporary one: `slot-N`, held under a file
lock while a request runs (a lock dies with its holder, so a killed worker frees it), and `pause`, the time until which
nobody asks, which whoever is answered 429 or 503 sets for all.
"""

import getpass
import logging
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from filelock import FileLock, Timeout

from lethe.config import UserError

T = TypeVar("T")
LOG = logging.getLogger(__name__)

SLOTS = 8  # requests at once
TRIES = 8  # of one request
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; doubled from try to try
LONGEST_PAUSE = 600.0  # seconds; hubs count requests over five minutes
STALL = 30.0  # seconds without a byte
PIECE = 1 << 24  # bytes of a request
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers after which asking again can help
TELL_TO_WAIT = (429, 503)
NETWORK = ("aiohttp", "botocore", "httpcore", "httpx", "httpx2", "requests", "urllib3")


class BrokenSourceError(UserError):
    """A source that could not be read however often it was tried."""


def file_system(location: str) -> tuple[Any, str]:
    """The file system of a location (a path or URL) and the path in it. Raises what fsspec raises for a wrong one."""
    options: dict[str, Any] = {}
    if location.startswith(("http://", "https://")):
        import aiohttp

        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(sock_connect=STALL, sock_read=STALL)}
    return fsspec.core.url_to_fs(location, **options)


def is_local(fs: Any) -> bool:
    """Whether its files are read as they lie, without requests."""
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def attempt(what: str, request: Callable[[], T]) -> T:
    """The result of a request, tried again where it was refused for now, cut or without an answer.

    Raises BrokenSourceError naming `what` after TRIES tries, and UserError at once where trying again cannot help.
    """
    limiter = Limiter(Path(tempfile.gettempdir()) / f"lethe-requests-{getpass.getuser()}")
    for number in range(TRIES):
        try:
            with limiter.turn():
                return request()
        except Exception as error:
            status, told = _answer(error)
            if not _may_pass(error, status):
                raise UserError(f"{what}: cannot be read: {_words(error)}") from error
            last = error
        if number + 1 < TRIES:
            wait = max(told, min(FIRST_WAIT * 2**number, LONGEST_WAIT) * random.uniform(0.5, 1))
            LOG.warning("%s: try %d of %d: %s; again in %.0f s", what, number + 1, TRIES, _words(last), wait)
            if status in TELL_TO_WAIT:
                limiter.pause(wait)
            else:
                time.sleep(min(wait, LONGEST_PAUSE))
    raise BrokenSourceError(
        f"{what}: still broken after {TRIES} tries: {_words(last)}; allowed: a source that answers. What is scanned "
        "already is kept, and the same command goes on from there"
    )


def fetch(fs: Any, path: str, size: int, start: int, end: int, into: BinaryIO) -> None:
    """Copy bytes start..end of a file of `size` bytes to the same place in `into`. Raises as `attempt`."""
    into.seek(start)
    for first in range(start, end, PIECE):
        into.write(read_range(fs, path, size, first, min(first + PIECE, end)))


def read_range(fs: Any, path: str, size: int, start: int, end: int) -> bytes:
    """Bytes start..end of a file of `size` bytes, in one request. Raises as `attempt`."""

    def request() -> bytes:
        # The size is given, so that opening asks nothing; without a cache a read is one request for just its range.
        with fs.open(path, "rb", cache_type="none", size=size) as file:
            file.seek(start)
            data = file.read(end - start)
        if len(data) != end - start:
            raise EOFError(f"found {len(data)} bytes of {end - start} from byte {start}")
        return data

    return attempt(fs.unstrip_protocol(path), request)


class Limiter:
    """Shares out the right to ask, among the processes that name the same folder."""

    def __init__(self, folder: Path, slots: int = SLOTS) -> None:
        self.folder, self.slots = folder, slots
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no pause holds and a slot is free; the slot is held inside."""
        while (left := self._pause_left()) > 0:
            time.sleep(left + random.uniform(0, min(left, 1)))  # not all at once
        lock = self._free_slot()
        try:
            yield
        finally:
            lock.release()

    def pause(self, seconds: float) -> None:
        """Nobody asks for so long; a longer pause that holds already stays."""
        if seconds > self._pause_left():
            with FileLock(self.folder / "pause.lock"):
                (self.folder / "pause").write_text(repr(time.time() + min(seconds, LONGEST_PAUSE)))

    def _pause_left(self) -> float:
        try:
            left = float((self.folder / "pause").read_text()) - time.time()
        except (OSError, ValueError):
            return 0
        return left if left <= LONGEST_PAUSE else 0  # a clock that was set back must not stop everything

    def _free_slot(self) -> FileLock:
        while True:
            for number in random.sample(range(self.slots), self.slots):
                lock = FileLock(self.folder / f"slot-{number}", blocking=False)
                try:
                    lock.acquire()
                    return lock
                except Timeout:
                    continue
            time.sleep(random.uniform(0.01, 0.05))


def _answer(error: BaseException | None) -> tuple[int | None, float]:
    """The status of the answer behind an error, if there was one, and the seconds that it asks to wait, else 0."""
    while error is not None:
        response = getattr(error, "response", None)
        for holder in (error, response):
            status = getattr(holder, "status", None) or getattr(holder, "status_code", None)
            if isinstance(status, int):
                return status, _seconds((getattr(holder, "headers", None) or {}).get("Retry-After", ""))
        error = error.__cause__ or error.__context__
    return None, 0


def _seconds(retry_after: str) -> float:
    """Of a Retry-After header: a number or a date (RFC 9110, 10.2.3); 0 where it is neither."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0
    return max(seconds, 0) if math.isfinite(seconds) else 0


def _may_pass(error: Exception, status: int | None) -> bool:
    if status is not None:
        return status in BUSY
    cause: BaseException = error
    while cause.__cause__ is not None:  # fsspec says that a file is not there when nobody answers
        cause = cause.__cause__
    if type(cause).__name__ == "OfflineModeIsEnabled":  # huggingface_hub's, a ConnectionError
        return False
    if isinstance(cause, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return False
    return isinstance(cause, (OSError, EOFError)) or type(cause).__module__.split(".")[0] in NETWORK


def _words(error: BaseException) -> str:
    status, _ = _answer(error)
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return f"answered {status} ({text})" if status and str(status) not in text else text
