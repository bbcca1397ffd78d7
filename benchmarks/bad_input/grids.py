"""Cases 1 to 58: what is wrong with a configuration, a name, a command line or the place where a program runs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bad_input.case import CANARY, Case, Done, Room
from benchmarks.bad_input.lab import GRID as LAB_GRID

GRID: dict[str, Any] = {
    "corpora": ["food", "automotive"],
    "tokenizer": {"vocab_size": 512},
    "models": ["toy"],
    "baselines": ["sequential_ab"],
    "stage": {"tokens": 40_000, "batch": 8, "learning_rate": 1e-3},
}
TEXT = yaml.safe_dump(GRID)
Make = Callable[[Room], list[str]]


def planned(room: Room, config: Path, *arguments: str) -> list[str]:
    """A plan of a grid: it needs no Ray, and must write nothing."""
    return ["ray_jobs.run_grid", "--plan", str(config), *arguments, f"storage={room.storage}"]


def text(content: str | bytes) -> Make:
    """A case of what stands in the file; CANARY stands for a path in the room."""

    def make(room: Room) -> list[str]:
        data = content if isinstance(content, bytes) else content.encode()
        return planned(room, room.write("grid.yaml", data.replace(CANARY.upper().encode(), str(room.canary).encode())))

    return make


def fields(changes: Mapping[str, Any]) -> Make:
    """A case of fields of the file, by their dotted names; `...` leaves one out."""
    grid = json.loads(json.dumps(GRID))
    for name, value in changes.items():
        *above, last = name.split(".")
        here = grid
        for key in above:
            here = here.setdefault(key, {})
        if value is ...:
            del here[last]
        else:
            here[last] = value
    return text(yaml.safe_dump(grid, allow_unicode=True))


def words(*arguments: str) -> Make:
    """A case of the command line."""
    return lambda room: planned(room, room.write("grid.yaml", TEXT), *arguments)


def on_the_lab(*arguments: str, program: str = "ray_jobs.run_grid", **changes: Any) -> Make:
    """A program on the lab's grid, all of which is finished, with other fields and arguments."""

    def make(room: Room) -> list[str]:
        room.prepared()
        config = room.write("grid.yaml", yaml.safe_dump(LAB_GRID | changes))
        return [program, str(config), *arguments, f"storage={room.storage}"]

    return make


def missing(room: Room) -> list[str]:
    return planned(room, room.folder / "none.yaml")


def a_folder(room: Room) -> list[str]:
    return planned(room, room.folder)


def unreadable(room: Room) -> list[str]:
    """Nobody, root included, can read the beginning of this: at address 0 of a process there is nothing."""
    (room.folder / "grid.yaml").symlink_to("/proc/self/mem")
    return planned(room, room.folder / "grid.yaml")


def spaces(room: Room) -> list[str]:
    return planned(room, room.write('a grid\'s "own" file.yaml', TEXT), "name=spaces")


def read_only_folder(room: Room) -> list[str]:
    """In /proc, where nobody can make a file, with the storage where the program is."""
    room.cwd = Path("/proc")
    return ["ray_jobs.run_grid", str(room.write("grid.yaml", TEXT))]


def missing_mount(room: Room) -> list[str]:
    return ["ray_jobs.run_grid", str(room.write("grid.yaml", TEXT)), "storage=/proc/no-mount/runs"]


def a_file_for_storage(room: Room) -> list[str]:
    path = room.write("file", "no folder")
    return ["ray_jobs.run_grid", str(room.write("grid.yaml", TEXT)), f"storage={path}"]


def newer_stage(room: Room) -> list[str]:
    command = on_the_lab()(room)
    path = room.storage / "runs" / "stages" / room.lab.grid_stage / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    return command


def spoilt(name: str, content: str, program: str) -> Make:
    """What another program left in place of the grid's plan, or progress."""

    def make(room: Room) -> list[str]:
        command = on_the_lab(program=f"ray_jobs.{program}")(room)
        (room.storage / "runs" / "grid" / f"{name}.json").write_text(content)
        return command

    return make


def closed_pipe(room: Room) -> list[str]:
    room.closed = True
    return words()(room)


def no_terminal(room: Room) -> list[str]:
    room.environment = {"COLUMNS": "20", "NO_COLOR": "1", "TERM": "dumb"}
    return words()(room)


def no_colours(room: Room, done: Done) -> None:
    assert "\x1b" not in done.text, "it colours what nobody sees"


def the_plan(room: Room, done: Done) -> None:
    assert "stage" in done.text, "no plan is printed"


BOMB = "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)
FILE, LINE = "grid.yaml", "command line"
PROGRESS = ("progress.json: found no progress of a grid; it counts as none", "not run yet")
CASES = [
    Case(1, "missing file", "E", missing, "none.yaml: cannot be read"),
    Case(2, "a directory", "E", a_folder, "cannot be read: Is a directory"),
    Case(3, "a file that cannot be read", "E", unreadable, "grid.yaml: cannot be read: Input/output error"),
    Case(4, "empty", "E", text("# nothing\n"), "grid.yaml: found nothing"),
    Case(5, "a list at the top", "E", text("- a\n- b\n"), "grid.yaml: found a list"),
    Case(6, "two documents", "E", text(f"{TEXT}---\n{TEXT}"), FILE),
    Case(7, "tab indent", "E", text(TEXT.replace("  ", "\t")), FILE),
    Case(8, "UTF-16", "E", text(TEXT.encode("utf-16")), "grid.yaml: not UTF-8"),
    Case(8, "Latin-1", "E", text(f"{TEXT}description: café\n".encode("latin-1")), "grid.yaml: not UTF-8"),
    Case(9, "over 1 MB", "E", text(TEXT + "# more\n" * 200_000), "allowed: at most 1,000,000"),
    Case(10, "nested 2,000 deep", "E", text("description: " + "[" * 2000 + "]" * 2000), FILE),
    Case(11, "BOM and CRLF", "W", text(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()), check=the_plan),
    Case(12, "1e-3 for a number", "W", text(TEXT.replace("0.001", "1e-3")), check=the_plan),
    Case(13, "duplicate key", "E", text(f"{TEXT}models: [tiny]\n"), "duplicate key 'models'"),
    Case(14, "an alias to itself", "E", text(f"{TEXT}description: &a [*a]\n"), FILE),
    Case(15, "aliases that expand", "E", text(f"{TEXT}a: &a [x]\n{BOMB}"), FILE),
    Case(16, "a Python object", "E", text(f"{TEXT}description: !!python/object/apply:os.mkdir [CANARY]\n"), FILE),
    Case(17, "a placeholder left in", "E", fields({"stage.tokens": "${TOKENS}"}), ("stage.tokens", "${TOKENS}")),
    Case(17, "a template left in", "E", fields({"stage.tokens": "{{ tokens }}"}), ("stage.tokens", "{{ tokens }}")),
    Case(18, "unknown key", "E", fields({"stage.learning_rat": 1}), "did you mean 'learning_rate'?"),
    Case(19, "missing key", "E", fields({"stage.batch": ...}), "stage.batch: missing"),
    Case(20, "text for int", "E", fields({"stage.batch": "eight"}), "stage.batch: found 'eight'"),
    Case(21, "no for a name", "E", text(TEXT.replace("- toy", "- no")), "models: found 'no'"),
    Case(22, "010 for a count", "E", text(TEXT.replace("batch: 8", "batch: 010")), "stage.batch: found '010'"),
    Case(22, "1:30 for a count", "E", text(TEXT.replace("batch: 8", "batch: 1:30")), "stage.batch: found '1:30'"),
    Case(23, "integer over 2^63", "E", fields({"seeds": [2**70]}), "allowed: less than 2^63"),
    Case(24, "infinity", "E", text(TEXT.replace("0.001", ".inf")), "stage.learning_rate: found inf"),
    Case(24, "no number", "E", text(TEXT.replace("0.001", ".nan")), "stage.learning_rate: found nan"),
    Case(25, "null", "E", fields({"stage.batch": None}), "stage.batch: found None"),
    Case(26, "ratio 1.5", "E", fields({"interleaving_ratios": [1.5]}), "interleaving_ratios[0]: found 1.5"),
    Case(27, "ratio -0.1", "E", fields({"interleaving_ratios": [-0.1]}), "interleaving_ratios[0]: found -0.1"),
    Case(28, "ratio 1.0", "E", fields({"interleaving_ratios": [1.0]}), "interleaving_ratios[0]: found 1.0"),
    Case(29, "empty axis", "E", fields({"seeds": []}), "seeds: found []"),
    Case(30, "weights sum to 0", "E", fields({"baselines": [{"odd": [{"mixture": {"food": 0}}]}]}), FILE),
    Case(31, "negative weight", "E", fields({"baselines": [{"odd": [{"mixture": {"food": -1}}]}]}), "found -1"),
    Case(32, "budget 0", "E", fields({"stage.tokens": 0}), "stage.tokens: found 0"),
    Case(33, "budget under one batch", "E", fields({"stage.tokens": 10}), "stage.tokens: found 10"),
    Case(
        35, "d_model not divisible by heads", "E", fields({"models": {"odd": {"layers": 1, "heads": 3, "d_model": 64}}})
    ),
    Case(37, "seed negative", "E", fields({"seeds": [-1]}), "seeds[0]: found -1"),
    Case(37, "seed a text", "E", fields({"seeds": ["one"]}), "seeds[0]: found 'one'"),
    Case(38, "learning rate 0", "E", fields({"stage.learning_rate": 0}), "stage.learning_rate: found 0"),
    Case(38, "learning rate negative", "E", fields({"stage.learning_rate": -1}), "stage.learning_rate: found -1"),
    Case(39, "warm-up longer than the stage", "E", fields({"stage.warmup": 1.5}), "stage.warmup: found 1.5"),
    Case(40, "the same cell twice", "W", fields({"interleaving_ratios": [0.1, 0.10]}), check=the_plan),
    Case(
        41, "weights sum to 1.2", "W", fields({"baselines": [{"odd": [{"mixture": {"food": 0.6, "automotive": 0.6}}]}]})
    ),
    Case(
        42,
        "budget over the corpus",
        "E",
        on_the_lab("stage.tokens=9_000_000"),
        ("stage.max_epochs: found 1; corpus food has", "allowed: at least 9.65 epochs"),
    ),
    Case(43, "unknown corpus", "E", fields({"corpora": ["foood", "automotive"]}), "did you mean 'food'?"),
    Case(44, "unknown model", "E", fields({"models": ["tinny"]}), "did you mean 'tiny'?"),
    Case(45, "unknown intervention", "E", fields({"interventions": {"x": {"kind": "ewcc"}}}), "'ewcc'"),
    Case(45, "unknown baseline", "E", fields({"baselines": ["sequental_ab"]}), "found 'sequental_ab'; allowed: seq"),
    Case(46, "A is B", "E", fields({"corpora": ["food", "food"]}), "corpora: found food, food"),
    Case(48, "a name that leaves the storage", "E", fields({"name": "../../there"}), "name: found '../../there'"),
    Case(48, "a name with a slash", "E", fields({"name": "a/b"}), "name: found 'a/b'"),
    Case(48, "a name with a newline", "E", fields({"name": "two\nlines"}), "name: found"),
    Case(48, "a name of 300 characters", "E", fields({"name": "n" * 300}), "name: found"),
    Case(48, "a name with a trailing dot", "E", fields({"name": "dot."}), "name: found 'dot.'"),
    Case(48, "a name beyond ASCII", "E", fields({"name": "grün"}), "name: found 'grün'"),
    Case(49, "unknown flag", "E", words("--plann"), "unrecognized arguments: --plann"),
    Case(50, "override of an unknown path", "E", words("stage.batchh=8"), (LINE, "did you mean 'batch'?")),
    Case(51, "override of the wrong type", "E", words("stage.batch=eight"), (LINE, "stage.batch: found 'eight'")),
    Case(51, "override without a value", "E", words("stage.batch"), (LINE, "found 'stage.batch'")),
    Case(52, "a read-only working folder", "E", read_only_folder, "/proc"),
    Case(53, "storage on a mount that is not there", "E", missing_mount, "/proc/no-mount/runs"),
    Case(53, "storage in a file", "E", a_file_for_storage, "/file"),
    Case(
        54,
        "the run folder of another grid",
        "E",
        on_the_lab("--quiet", source="data/sample"),
        ("runs/grid: holds a grid with another source", "name=ANOTHER"),
    ),
    Case(54, "a plan that is no JSON, cleaned", "E", spoilt("plan", "<html>", "clean"), "plan.json: not JSON"),
    Case(54, "a plan that is no plan, cleaned", "E", spoilt("plan", "[1, 2]", "clean"), "plan.json"),
    Case(
        54,
        "a plan that is none, run again",
        "W",
        spoilt("plan", "[1, 2]", "run_grid"),
        remade=("runs/grid/*", "mlflow.db"),
    ),
    Case(54, "progress that is no JSON", "B", spoilt("progress", "<html>", "status"), PROGRESS, code=1),
    Case(54, "progress of something else", "B", spoilt("progress", '{"cells": 1}', "status"), PROGRESS, code=1),
    Case(54, "progress that is a list", "B", spoilt("progress", "[1]", "status"), PROGRESS, code=1),
    Case((55, 96), "a stage of a newer version", "E", newer_stage, "stage.json: version: found 99; allowed: up to 1"),
    Case(56, "a closed pipe", "W", closed_pipe),
    Case(57, "no terminal, 20 characters wide, NO_COLOR", "W", no_terminal, check=no_colours),
    Case(58, "a path with spaces and quotes", "W", spaces, check=the_plan),
]
