"""Letters to a service that may be away: sent in the background, and tried again until they arrive."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from lethe.progress import say

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between two tries

T = TypeVar("T")


class Outbox(Generic[T]):
    """`send(letter)` is called in a thread of its own; where it raises, the letter is kept and tried again.

    A letter replaces an unsent one of its name. `to` names the receiver for people.
    """

    def __init__(self, to: str, send: Callable[[T], None]) -> None:
        self.to, self.send = to, send
        self.problem: str | None = None
        """Why the last try failed; None if it did not."""
        self.letters: dict[str, T] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"to {to}", daemon=True)
        self._thread.start()

    def put(self, name: str, letter: T) -> None:
        """Send a letter soon."""
        with self._changed:
            self.letters[name] = letter
            self._changed.notify()

    def close(self, patience: float) -> list[str]:
        """Wait until all is sent, but no longer than `patience` seconds; returns the names of what is not."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            if self.problem and self.letters:
                say(f"{self.to} does not answer: waiting {patience:.0f} s at most to send {len(self.letters)} runs")
        self._thread.join(patience)
        with self._changed:
            unsent, self.letters = list(self.letters), {}  # the thread, if it lives, has nothing more to do
            return unsent

    def _run(self) -> None:
        wait = FIRST_WAIT
        while True:
            with self._changed:
                while not self.letters and not self._closed:
                    self._changed.wait()
                if not self.letters:
                    return
                name, letter = next(iter(self.letters.items()))
            try:
                self.send(letter)
            except Exception as error:  # noqa: BLE001 - whatever the service's client raises
                self._failed(name, error)
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                self._sent(name, letter)
                wait = FIRST_WAIT

    def _failed(self, name: str, error: Exception) -> None:
        logging.getLogger(__name__).debug("%s", error, exc_info=error)
        if self.problem is None:
            say(f"note: {self.to} does not take a run, which is kept and tried again: {first_line(error)}")
        self.problem = first_line(error)
        with self._changed:
            if name in self.letters:
                self.letters[name] = self.letters.pop(name)  # the last now: one that is refused must not stop the rest

    def _sent(self, name: str, letter: T) -> None:
        if self.problem is not None:
            say(f"note: {self.to} answers again")
        self.problem = None
        with self._changed:
            if self.letters.get(name) is letter:
                del self.letters[name]


def first_line(error: Exception) -> str:
    """What people are told of an error; SQLAlchemy puts how it came about before what it is."""
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as a result of ")]
    return (lines or [type(error).__name__])[0][:300]
