"""Whether the benchmark of bad input can tell right from wrong, and whether it is about the whole catalogue."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.bad_input.case import Case, Done, Room, judge
from benchmarks.bad_input.grids import words
from benchmarks.bad_input.lab import Lab
from benchmarks.bad_input.reports import HOSTILE, TAKEN, harmless
from benchmarks.bad_input.table import CASES, NOT_MET
from benchmarks.bad_input.tracking import SECRET, secret_kept

CATALOGUE = 103


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_the_cases_and_what_is_not_met_are_the_catalogue():
    met = {number for case in CASES for number in case.of}
    assert met | NOT_MET.keys() == set(range(1, CATALOGUE + 1))
    assert not met & NOT_MET.keys()
    assert all(NOT_MET.values())


def test_every_case_is_one_of_its_own_and_says_what_must_come_of_it():
    names = [(case.of, case.name, case.must) for case in CASES]
    assert len(names) == len(set(names))
    assert {case.must for case in CASES} == set("ERBPWT")


def unpacking(name: str) -> Callable[[Room], list[str]]:
    """A program that writes one file of the storage, whether something lies there or not."""

    def make(room: Room) -> list[str]:
        (room.storage / "there").write_text("before")
        with zipfile.ZipFile(room.folder / "some.zip", "w") as file:
            file.writestr(name, "after")
        return ["zipfile", "-e", str(room.folder / "some.zip"), str(room.storage)]

    return make


def executing(room: Room) -> list[str]:
    return ["zipfile", "-c", str(room.canary), str(room.write("some", ""))]


def raising(room: Room) -> list[str]:
    return ["timeit", "-n", "1", "raise ValueError('found; allowed')"]


def test_a_case_is_right_only_if_it_ends_as_it_must_and_leaves_nothing(lab: Lab):
    refused = next(case for case in CASES if case.of == (16,))
    accepted = next(case for case in CASES if case.of == (11,))
    cases = [
        refused,
        accepted,
        accepted._replace(must="E", numbers=1),
        accepted._replace(says="what it never says", numbers=(2, 3)),
        Case(4, "new", "W", unpacking("new")),
        Case(5, "what may be replaced", "B", unpacking("there"), remade=("there",)),
        Case(6, "what may not", "W", unpacking("there")),
        Case(7, "executed", "W", executing),
        Case(8, "a traceback", "E", raising),
    ]
    result = judge(cases, lab)
    assert (result["cases"], result["right"], result["wrong"]) == (9, 4, [1, 2, 3, 6, 7, 8])
    assert (result["tracebacks"], result["executed"], result["changed"]) == (1, 1, 1)
    assert result["seconds_max"] > 0


def test_a_program_that_refuses_and_writes_is_wrong(lab: Lab):
    case = Case(1, "writes", "E", words("--plann", "surprise"), "unrecognized")
    assert judge([case], lab)["wrong"] == []

    def planted(room: Room) -> list[str]:
        room.environment = {"PYTHONPYCACHEPREFIX": str(room.storage), "PYTHONDONTWRITEBYTECODE": ""}
        return words("--plann")(room)

    result = judge([case._replace(make=planted)], lab)
    assert (result["changed"], result["wrong"]) == (1, [1])


def test_a_page_that_runs_what_was_text_is_told_from_one_that_shows_it(tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text(f"<p>{HOSTILE.replace('<', '&lt;').replace(chr(0x202E), '')}</p><script>good()</script>")
    assert TAKEN in "".join(harmless(path).words)
    for bad in (f"<script>{HOSTILE}", f"<img src=x onerror={TAKEN}>", "<p>\u202e</p>"):
        path.write_text(bad)
        with pytest.raises(AssertionError, match="page.html"):
            harmless(path)


def test_a_password_left_in_a_file_is_found(lab: Lab, tmp_path: Path):
    room = Room(tmp_path, lab)
    (tmp_path / "left.json").write_text(SECRET)
    with pytest.raises(AssertionError, match=r"the password stands in .*left\.json"):
        secret_kept(room, Done(2, "", "", 0.0))
