"""Small real HTTP servers of the tests: one that answers as a test says, and one that stands before a real server."""

import http.client
import socket
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    body: bytes


@dataclass(slots=True)
class Reply:
    """One answer. `pause`: seconds between its bytes. `cut`: how many bytes of it are sent before the end."""

    status: int = 200
    body: bytes = b"{}"
    pause: float = 0.0
    cut: int | None = None
    wait: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)


Answering = Callable[[Asked], Reply]


class Web:
    """Listens on a port of 127.0.0.1, or at a path; a thread for each connection, which it keeps alive."""

    def __init__(self, answer: Answering, path: str | None = None) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.connections = 0
        self.stop = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def setup(self) -> None:
                web.connections += 1
                super().setup()

            def address_string(self) -> str:
                return "test"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._respond()

            def do_POST(self) -> None:
                self._respond()

            def _respond(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                asked = Asked(self.command, self.path, self.rfile.read(size))
                web.asked.append(asked)
                reply = web.answer(asked)
                web.stop.wait(reply.wait)
                head = f"HTTP/1.1 {reply.status} X\r\nContent-Type: application/json\r\n"
                whole = f"{head}Content-Length: {len(reply.body)}\r\n\r\n".encode() + reply.body
                if reply.cut is not None:
                    whole = whole[: reply.cut]
                    self.close_connection = True
                pieces = [whole] if not reply.pause else [whole[at : at + 1] for at in range(len(whole))]
                try:
                    for piece in pieces:
                        self.wfile.write(piece)
                        self.wfile.flush()
                        if web.stop.wait(reply.pause):
                            break
                except OSError:
                    self.close_connection = True

        class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 256
            address_family = socket.AF_UNIX if path else socket.AF_INET

        # TCPServer binds whatever its address family takes as an address.
        self._server = Server(path or ("127.0.0.1", 0), Handler)  # type: ignore[arg-type]
        self.url = f"unix:{path}" if path else f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "Web":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()


class Proxy(Web):
    """Hands every request on to `target`, a URL as a Gate document has it; `change` may answer instead, or alter."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.change: Callable[[Asked, Reply], Reply] = lambda _, reply: reply
        super().__init__(self._through)

    def _through(self, asked: Asked) -> Reply:
        try:
            status, content = exchange(self.target, asked.method, asked.path, asked.body or None)
        except (OSError, http.client.HTTPException):
            return self.change(asked, Reply(502, b'{"error":{"message":"no server behind the proxy"}}'))
        return self.change(asked, Reply(status, content))


def exchange(url: str, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    """One request, without the product: status and body. OSError, HTTPException."""
    parts = urlsplit("http://localhost" if url.startswith("unix:") else url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    try:
        if url.startswith("unix:"):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(url.removeprefix("unix:"))
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
