"""Case 102: what can be wrong with the MLflow that a grid is to be tracked in. No NFS is mounted for it."""

import sqlite3
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from benchmarks.bad_input.case import Case, Done, Room
from benchmarks.bad_input.grids import Make, on_the_lab
from benchmarks.chaos.lab import free_port

SECRET = "never-shown"


def tracked(uri: Callable[[Room], str], by_variable: bool = False) -> Make:
    """The lab's grid, all of which is finished, with another tracking URI."""

    def make(room: Room) -> list[str]:
        command = on_the_lab()(room)
        if by_variable:
            room.environment = {"MLFLOW_TRACKING_URI": uri(room)}
            return command
        return [*command, "--tracking-uri", uri(room)]

    return make


def nobody(room: Room) -> str:
    """A port at which nobody listens."""
    return f"http://me:{SECRET}@127.0.0.1:{free_port()}"


def answering(code: int) -> Callable[[Room], str]:
    """A server that answers whatever it is asked with this code."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *words: Any) -> None:
            pass

    def start(room: Room) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        room.stack.callback(server.server_close)
        room.stack.callback(server.shutdown)
        return f"http://me:{SECRET}@127.0.0.1:{server.server_port}"

    return start


def a_text(room: Room) -> str:
    return f"sqlite:///{room.write('text.db', 'no database')}"


def database(*statements: str) -> Make:
    """The grid's own database, changed by these statements."""

    def make(room: Room) -> list[str]:
        command = on_the_lab()(room)
        with sqlite3.connect(room.storage / "mlflow.db") as db:
            for statement in statements:
                db.execute(statement)
        db.close()
        return command

    return make


def secret_kept(room: Room, done: Done) -> None:
    assert SECRET not in done.text, "it prints the password"
    left = [path for path in room.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert not left, f"the password stands in {left[0]}"


URI = "tracking URI: found"
SCHEME = f"quux://me:{SECRET}@there"
CASES = [
    Case(102, "unknown scheme", "E", tracked(lambda room: SCHEME), (URI, "quux://***@there"), secret_kept),
    Case(102, "the same by variable", "E", tracked(lambda room: SCHEME, True), (URI, "quux://***@there"), secret_kept),
    Case(102, "nobody there", "E", tracked(nobody), (URI, "http://***@127.0.0.1", "cannot be used"), secret_kept),
    Case(102, "401", "E", tracked(answering(401)), (URI, "401"), secret_kept),
    Case(102, "403", "E", tracked(answering(403)), (URI, "403"), secret_kept),
    Case(102, "a folder", "E", tracked(lambda room: "./mlruns"), (URI, "'./mlruns'", "allowed: sqlite:///")),
    Case(102, "no database", "E", tracked(a_text), (URI, "text.db", "not a database")),
    Case(
        102,
        "a deleted experiment",
        "E",
        database("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'grid'"),
        ("experiment 'grid' is deleted", "name=ANOTHER"),
    ),
    Case(102, "a newer schema", "E", database("UPDATE alembic_version SET version_num = 'f' || version_num"), URI),
    Case(102, "an older schema", "E", database("UPDATE alembic_version SET version_num = '451aebb31d03'"), URI),
]
