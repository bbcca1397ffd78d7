"""Whether what the benchmark of kills and faults puts between a program and its files and servers does as it says."""

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.chaos.lab import HOOKS
from benchmarks.chaos.proxy import Proxy


@pytest.fixture
def counted() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server, and what it was sent."""
    came: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(201)
            self.end_headers()
            self.wfile.write(b"thanks for " + came[-1])

        def log_message(self, *given: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    server.server_close()


def post(uri: str, body: bytes) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{uri}/path", body), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_proxy_that_refuses_has_done_half_of_what_it_was_asked(counted):
    server, came = counted
    with Proxy(server) as proxy:
        assert post(proxy.uri, b"a") == (201, b"thanks for a")
        proxy.refuse()
        assert [post(proxy.uri, body)[0] for body in (b"b", b"c")] == [500, 500]
        proxy.calm_down()
        assert post(proxy.uri, b"d") == (201, b"thanks for d")
        assert (came, proxy.disturbed) == ([b"a", b"b", b"d"], 2)


def test_a_proxy_that_takes_long_answers_at_last_and_at_once_when_it_is_calm(counted):
    server, came = counted
    with Proxy(server) as proxy:
        proxy.take(0.5)
        begun = time.monotonic()
        assert post(proxy.uri, b"a") == (201, b"thanks for a")
        assert time.monotonic() - begun >= 0.5
        proxy.take(600)
        threading.Timer(0.2, proxy.calm_down).start()
        assert post(proxy.uri, b"b")[0] == 201
        assert time.monotonic() - begun < 60
        assert proxy.disturbed == 2


LOOK = """
import os, sys
from pathlib import Path
path = Path(sys.argv[1])
try:
    text = path.read_text()
except FileNotFoundError:
    text = None
seen = [path.is_file(), os.listdir(path.parent) == [path.name], list(path.parent.glob("*")) == [path], text == "new"]
assert len(set(seen)) == 1, seen
print(int(seen[0]))
"""


def test_a_file_is_late_for_other_processes_alone(tmp_path: Path):
    path = tmp_path / "stages" / "key" / "stage.json"
    path.parent.mkdir(parents=True)
    written = tmp_path / "written"
    written.mkdir()

    def look(seconds: int, before: str = "") -> str:
        environment = os.environ | {"PYTHONPATH": str(HOOKS), "CHAOS_LATE": f"{seconds}:{written}"}
        command = [sys.executable, "-c", before + LOOK, str(path)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    write = "import os, sys; open(sys.argv[1] + '~', 'w').write('new'); os.replace(sys.argv[1] + '~', sys.argv[1])\n"
    assert look(600, write) == "1"
    assert look(600) == "0"
    assert look(0) == "1"
