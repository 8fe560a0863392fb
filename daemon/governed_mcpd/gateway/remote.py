"""`governedctl mcp --listen HOST:PORT --upstream URL`: the gateway of a server that runs elsewhere, over streamable
HTTP. Only its calls are governed: nothing here knows what they do there, and every record says so.
"""

import asyncio
import ipaddress
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from governed.v1 import control_pb2 as pb
from governed_mcpd.control.client import ControlError
from governed_mcpd.gateway import messages
from governed_mcpd.gateway.batch import Batches
from governed_mcpd.gateway.exchange import Exchange
from governed_mcpd.gateway.link import Link, open_link
from governed_mcpd.gateway.options import EXIT_FAILED, Options
from governed_mcpd.gateway.posted import Places, Posted, header, respond
from governed_mcpd.gateway.run import complain, runtime_dir
from governed_mcpd.gateway.tools import Offered
from governed_mcpd.gateway.upstream import Upstream, client
from governed_mcpd.launcher.options import UsageError

SESSION = "mcp-session-id"
MOST_SESSIONS = 4096
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def serve(options: Options) -> int:
    """Until SIGTERM or SIGINT. 125 when it cannot begin."""
    try:
        sock = _listener(options.listen)
        wanted = pb.RunRequest(
            profile=options.profile,
            agent=options.agent,
            task=options.task,
            argv=[options.upstream.encode()],
            cwd=os.getcwdb(),
            home=os.environb.get(b"HOME", b"/"),
            server=options.server,
        )
        link = open_link(runtime_dir(options), nested=options.nested, request=pb.McpOpenRequest(remote=wanted))
    except (ControlError, UsageError, OSError, ValueError) as error:
        complain(str(error))
        return EXIT_FAILED
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"governed: http://{shown}:{port}{_path(options.upstream)} → {options.upstream}", file=sys.stderr, flush=True)
    try:
        asyncio.run(_run(link, options.upstream, sock))
    finally:
        link.close()
    return 0 if not link.gone else EXIT_FAILED


async def _run(link: Link, upstream: str, sock: socket.socket) -> None:
    async with client() as connections:
        app = Gateway(link, Upstream(connections, upstream))
        server = uvicorn.Server(
            uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning", timeout_graceful_shutdown=5)
        )

        def readable() -> None:
            link.readable()
            if link.gone:
                asyncio.get_running_loop().remove_reader(link.fileno())
                server.should_exit = True

        asyncio.get_running_loop().add_reader(link.fileno(), readable)
        await server.serve(sockets=[sock])
        app.abandon()


def _listener(address: str) -> socket.socket:
    """A socket on loopback: whoever can connect can call the tools as this user. ValueError, OSError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host not in _LOCAL and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"--listen {address}: expected an address of this machine (127.0.0.1:PORT)")
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((host, int(port)))
    found.listen(1024)
    return found


def _path(upstream: str) -> str:
    return urlsplit(upstream).path or "/"


class _Clock:
    """Timers of the running loop."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, call)


class Session:
    """One client's session with the server."""

    def __init__(self, link: Link, offered: Offered) -> None:
        self.exchange = Exchange(link, _Clock(), offered)
        self.batches = Batches(self.exchange)
        self.places = Places()


class Gateway:
    """The ASGI application. Sessions are the server's, by its session id; a request without one (the protocol of 2026,
    a server without sessions) is an exchange of its own. They share what it offers: the daemon judges one list."""

    def __init__(self, link: Link, upstream: Upstream) -> None:
        self._link = link
        self._upstream = upstream
        self._sessions: dict[str, Session] = {}
        self._offered = Offered(link, lambda: partial(upstream.ask, upstream.latest))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        if not _from_here(headers):
            await respond(send, 403, b"the Host or Origin of this request is not this machine")
        elif scope["path"] != _path(self._upstream.url):
            await respond(send, 404, f"expected the path {_path(self._upstream.url)}".encode())
        elif scope["method"] == "POST":
            await self._post(headers, receive, send)
        elif scope["method"] == "GET":
            await self._get(headers, receive, send)
        elif scope["method"] == "DELETE":
            await self._delete(headers, send)
        else:
            await respond(send, 405, b"expected POST, GET or DELETE")

    def _session(self, headers: list[tuple[str, str]]) -> Session:
        identity = header(headers, SESSION)
        known = self._sessions.pop(identity, None)
        if known is None:
            return Session(self._link, self._offered)
        self._sessions[identity] = known  # the latest is the last
        return known

    def _begin(self, identity: str, session: Session) -> None:
        """Most clients end no session: the one that was used longest ago has to go."""
        self._sessions.setdefault(identity, session)
        if len(self._sessions) > MOST_SESSIONS:
            self._end(next(iter(self._sessions)))

    def _end(self, identity: str) -> None:
        ended = self._sessions.pop(identity, None)
        if ended is not None:
            ended.exchange.abandon()

    async def _post(self, headers: list[tuple[str, str]], receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            await respond(send, 413, f"more than {messages.MOST_CLIENT} bytes".encode())
            return
        session = self._session(headers)

        began, ended = partial(self._begin, session=session), partial(self._end, header(headers, SESSION))
        posted = Posted(session.exchange, session.batches, session.places, self._upstream, headers, send, began, ended)
        task = asyncio.ensure_future(posted.run(body))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                posted.give_up(keep=bool(header(headers, SESSION)))
                task.cancel()
            await asyncio.gather(task, return_exceptions=not task.done() or task.cancelled())
        finally:
            gone.cancel()

    async def _get(self, headers: list[tuple[str, str]], receive: Receive, send: Send) -> None:
        session = self._session(headers)
        posted = Posted(session.exchange, session.batches, session.places, self._upstream, headers, send)
        task = asyncio.ensure_future(posted.stream())
        gone = asyncio.ensure_future(_gone(receive))
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            posted.give_up(keep=True)
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)

    async def _delete(self, headers: list[tuple[str, str]], send: Send) -> None:
        status = await self._upstream.delete(headers)
        self._end(header(headers, SESSION))
        await respond(send, status, b"")

    def abandon(self) -> None:
        for session in self._sessions.values():
            session.exchange.abandon()


def _from_here(headers: list[tuple[str, str]]) -> bool:
    """A page in the user's browser can reach this port as well (DNS rebinding): its Host or Origin gives it away."""
    host = urlsplit(f"//{header(headers, 'host')}").hostname
    origin = header(headers, "origin")
    return host in _LOCAL and (not origin or urlsplit(origin).hostname in _LOCAL)


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None when it is too large."""
    body = bytearray()
    while True:
        part = await receive()
        if part["type"] != "http.request":
            return bytes(body)
        body += part.get("body", b"")
        if len(body) > messages.MOST_CLIENT:
            return None
        if not part.get("more_body"):
            return bytes(body)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
