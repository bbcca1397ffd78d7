"""Letters arrive once the receiver is back, none is lost to another, and nobody waits for ever."""

import threading

import pytest

from grid import outbox
from grid.outbox import Outbox, first_line


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 0.01)


def test_what_is_refused_for_a_while_arrives_and_is_told_once(capsys: pytest.CaptureFixture[str]):
    came: list[str] = []
    tries = iter(range(10**6))

    def send(letter: str) -> None:
        if next(tries) < 5:
            raise OSError("away")
        came.append(letter)

    box = Outbox[str]("the post", send)
    for name in ("a", "b", "c"):
        box.put(name, name.upper())
    assert box.close(60) == []
    assert sorted(came) == ["A", "B", "C"]
    said = capsys.readouterr().err
    assert said.count("the post does not take") == said.count("the post answers again") == 1


def test_a_letter_that_is_never_taken_stops_no_other():
    came: list[str] = []

    def send(letter: str) -> None:
        if letter == "bad":
            raise ValueError("unreadable")
        came.append(letter)

    box = Outbox[str]("the post", send)
    for name in ("bad", "b", "c"):
        box.put(name, name)
    assert box.close(1) == ["bad"]
    assert sorted(came) == ["b", "c"]


def test_a_newer_letter_takes_the_place_of_an_unsent_one():
    came: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def send(letter: int) -> None:
        begun.set()
        go_on.wait(60)
        came.append(letter)

    box = Outbox[int]("the post", send)
    box.put("a", 0)
    begun.wait(60)
    for letter in range(1, 4):  # while the first one is on its way
        box.put("a", letter)
    go_on.set()
    assert box.close(60) == []
    assert came == [0, 3]


def test_a_receiver_that_hangs_holds_nobody_up():
    box = Outbox[str]("the post", lambda letter: threading.Event().wait(60))
    box.put("a", "A")
    assert box.close(0.1) == ["a"]


def test_people_are_told_what_an_error_is_not_how_it_came_about():
    story = "(raised as a result of Query-invoked autoflush)\ndatabase or disk is full\n[SQL: INSERT INTO runs]"
    assert first_line(RuntimeError(story)) == "database or disk is full"
    assert first_line(RuntimeError()) == "RuntimeError"
