"""A proxy in front of a real HTTP server that makes it slow, or has it fail."""

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

NOT_PASSED_ON = ("host", "connection", "content-length", "transfer-encoding")


class Proxy:
    """Serves while it is entered. `disturbed` counts the calls that were made slow or refused."""

    def __init__(self, server: str) -> None:
        self.server, self.disturbed = server, 0
        self._seconds, self._refuses, self._calm = 0.0, False, threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.calm_down()
        self._http.shutdown()
        self._http.server_close()

    def take(self, seconds: float) -> None:
        """Let every call take so long from now on."""
        self._seconds = seconds

    def refuse(self) -> None:
        """Answer 500 from now on, to every second call though it was done."""
        self._refuses = True

    def calm_down(self) -> None:
        """Disturb no more; who waits is answered."""
        self._seconds, self._refuses = 0.0, False
        self._calm.set()

    def _answer(self, handler: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)) or None
        if self._seconds:
            self.disturbed += 1
            self._calm.wait(self._seconds)
        if not self._refuses:
            return self._pass_on(handler, body)
        self.disturbed += 1
        if self.disturbed % 2:
            self._pass_on(handler, body)
        return 500, {"Content-Type": "text/plain"}, b"the benchmark says so"

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in NOT_PASSED_ON}
        request = urllib.request.Request(self.server + handler.path, body, headers, method=handler.command)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def serve(self) -> None:
                code, headers, body = proxy._answer(self)
                self.send_response(code)
                for name, value in headers.items():
                    if name.lower() not in NOT_PASSED_ON:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815 - so the library calls them

            def log_message(self, *given: object) -> None:
                """Nothing."""

        return Handler
