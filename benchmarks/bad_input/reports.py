"""Case 103: text that would be markup, a formula or a command for a terminal, on its way into pages and terminals."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import yaml

from benchmarks.bad_input import pages
from benchmarks.bad_input.case import Case, Done, Room
from benchmarks.bad_input.grids import on_the_lab
from benchmarks.bad_input.lab import GRID, TRAIN, documents, write_lines

TAKEN = "document.title='taken'"
HOSTILE = f"</script><script>{TAKEN}</script><img src=x onerror={TAKEN}>=cmd()\u202e"


class Page(HTMLParser):
    """What a browser would run of a page, and the text that it would show."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: list[str] = []
        self.scripts, self.words = [""], [""]
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += [name for name, _ in attributes]
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self.inside == "script" else self.words).append(data)


def harmless(path: Path) -> Page:
    """The page, in which nothing of the text is more than text."""
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not any(script.lstrip().startswith(TAKEN) for script in page.scripts), f"{path.name} runs what was text"
    assert "onerror" not in page.attributes, f"{path.name}: text became an element"
    assert "\u202e" not in text, f"{path.name}: text turns the line round"
    return page


def described(room: Room) -> list[str]:
    """The lab's grid under another name, its description and the folder of its source being markup."""
    command = on_the_lab(description=HOSTILE, source=f"<script>{TAKEN}</script>/*.parquet", name="other")(room)
    folder = room.storage / f"<script>{TAKEN}<" / "script>"
    shutil.copytree(room.storage / "data" / "sample", folder)
    return command


def the_report(room: Room, done: Done) -> None:
    page = harmless(room.storage / "runs" / "other" / "report.html")
    assert TAKEN in "".join(page.words), "the text is not shown"


def from_addresses(room: Room) -> list[str]:
    """A survey of pages whose addresses are markup as far as an address can be."""
    table = pages.good_pages(room.lab.storage)
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        row["url"] = f"https://<script>{TAKEN}<.s{number % 7}.example/{HOSTILE}"
        row["dump"] = HOSTILE
    pages.write_pages(room.storage / "pages" / "a.parquet", rows)
    config = room.write("grid.yaml", yaml.safe_dump(GRID | {"source": "pages", "description": HOSTILE}))
    return ["ray_jobs.survey", str(config), f"storage={room.storage}"]


def the_survey(room: Room, done: Done) -> None:
    (path,) = (room.storage / "data" / "index").glob("*/survey.html")
    harmless(path)
    plain_text(room, done)


def from_documents(room: Room) -> list[str]:
    """A look at a stage that was trained on documents of markup and of commands for a terminal."""
    hostile = [f"\x1b[2J{HOSTILE} \x1b]0;taken\x07 {text}" for text in documents()]
    write_lines(room.storage / "documents.jsonl", [{"text": text} for text in hostile])
    config = room.write("train.yaml", yaml.safe_dump(TRAIN))
    command = [sys.executable, "-m", "lethe.train", str(config), f"storage={room.storage}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (stage,) = (room.storage / "runs" / "stages").glob("*/stage.json")
    return ["lethe.validate", "--checkpoint", str(stage.parent)]


def from_documents_shown(room: Room, done: Done) -> None:
    plain_text(room, done)
    for path in room.storage.rglob("*.html"):
        harmless(path)


def plain_text(room: Room, done: Done) -> None:
    for character in ("\x1b", "\x07", "\u202e"):
        assert character not in done.text, f"{character!r} reaches the terminal"


CASES = [
    Case(103, "markup in description and source", "T", described, check=the_report, remade=("mlflow.db",)),
    Case((77, 103), "markup in addresses", "T", from_addresses, check=the_survey),
    Case(103, "markup and escapes in documents", "T", from_documents, "samples", from_documents_shown),
]
