"""A local server that speaks range requests, and a hub's few API routes, and misbehaves when it is told to."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
Fault = Callable[[int, str], str]  # (number of the ranged request, path) -> "", "429", "503", "404", "stall", "cut"


class Server:
    """Serves the files of a folder under /files/, and as data set ORG/NAME of a hub; `asked` logs ranged requests."""

    ranges = True  # whether it speaks them

    def __init__(self, root: Path) -> None:
        self.root, self.fault, self.retry_after = root, (lambda number, path: ""), "0"
        self.asked: list[tuple[float, str, str]] = []  # when, path, fault
        self.at_once = self.most_at_once = 0
        self.stall = 3.0  # seconds
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def file(self, path: str) -> Path | None:
        found = re.fullmatch(rf"/(?:files|datasets/org/name/resolve/(?:main|{REVISION}))/(.+)", path)
        file = self.root / found[1] if found else None
        return file if file and file.is_file() else None


@contextmanager
def serve(root: Path) -> Iterator[Server]:
    server = Server(root)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, ours: Server, *given: Any) -> None:
        self.ours = ours
        super().__init__(*given)  # answers

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/files/":
            names = sorted(file.name for file in self.ours.root.glob("*.parquet"))
            self.answer(200, "".join(f'<a href="{name}">{name}</a>' for name in names).encode(), "text/html")
        elif path.startswith("/api/"):
            self.api(path, "recursive=true" in self.path.lower())
        elif file := self.ours.file(path):
            self.send_file(file, path)
        else:
            self.missing()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else re.findall(r"paths=([^&]+)", unquote(body))
        found = [self.ours.root / path for path in paths]
        self.answer(200, json.dumps([_entry(p, self.ours.root) for p in found if p.exists() and p != self.ours.root]))

    def api(self, path: str, deep: bool) -> None:
        tree = re.fullmatch(rf"/api/datasets/org/name/tree/(?:main|{REVISION})(?:/(.*))?", path)
        if path.rstrip("/") == "/api/datasets/org/name" or path.startswith("/api/datasets/org/name/revision/"):
            self.answer(200, json.dumps({"id": "org/name", "sha": REVISION, "siblings": []}))
        elif tree and (self.ours.root / (tree[1] or "")).is_dir():
            folder = self.ours.root / (tree[1] or "")
            found = sorted(folder.rglob("*") if deep else folder.iterdir())
            self.answer(200, json.dumps([_entry(path, self.ours.root) for path in found]))
        else:
            self.missing()

    def missing(self) -> None:
        """A hub's clients tell a missing file from a missing hub by this word."""
        self.answer(404, headers={"X-Error-Code": "EntryNotFound"})

    def send_file(self, file: Path, path: str) -> None:
        data, headers = file.read_bytes(), {"ETag": f'"{etag(file)}"', "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not span or self.command == "HEAD" or not self.ours.ranges:
            return self.answer(200, data, headers=headers)
        first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
        if first > last:
            return self.answer(416)
        with self.ours.lock:
            number = len(self.ours.asked)
            self.ours.asked.append((time.monotonic(), path, ""))
            self.ours.at_once += 1
            self.ours.most_at_once = max(self.ours.most_at_once, self.ours.at_once)
        fault = self.ours.fault(number, path)
        with self.ours.lock:  # before the answer: whoever has it may ask again at once
            self.ours.asked[number] = (self.ours.asked[number][0], path, fault)
            self.ours.at_once -= 1
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.misbehave(fault, data[first : last + 1], headers)
        return None

    def misbehave(self, fault: str, body: bytes, headers: dict[str, str]) -> None:
        if fault.isdigit():
            self.answer(int(fault), headers={"Retry-After": self.ours.retry_after})
        elif fault == "stall":
            time.sleep(self.ours.stall)
            self.close_connection = True
        elif fault == "cut":
            self.answer(206, body, headers=headers, send=len(body) // 2)
            self.close_connection = True
        else:
            self.answer(206, body, headers=headers)

    def answer(
        self,
        status: int,
        body: bytes | str = b"",
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
        send: int | None = None,
    ) -> None:
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "X-Repo-Commit": REVISION,
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:send])


def _entry(path: Path, root: Path) -> dict[str, object]:
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"type": "directory", "oid": "0" * 40, "path": name, "size": 0}
    return {"type": "file", "oid": etag(path), "path": name, "size": path.stat().st_size}
