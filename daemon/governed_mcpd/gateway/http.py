"""One HTTP request of a client, to the server and back: a message in the body, answers as JSON or as a stream."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import httpx2

from governed_mcpd.gateway import messages, methods
from governed_mcpd.gateway.batch import Batches
from governed_mcpd.gateway.exchange import Exchange
from governed_mcpd.gateway.messages import BadMessage, Id, Json, Message
from governed_mcpd.gateway.sse import Parser, TooLarge
from governed_mcpd.gateway.tools import OWN_SECONDS, Came

JSON, STREAM = "application/json", "text/event-stream"
NOT_FOUND, BAD_GATEWAY = 404, 502
KEPT_SECONDS = 600.0  # for a client that comes back for the rest of a stream
_MOST_UNREAD = 1024 * 1024  # bytes of an answer that nobody looks at
Headers = list[tuple[str, str]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
# RFC 9110, 7.6.1, what the two connections have each for themselves, and what would lead the client past the gateway.
_NOT_PASSED = frozenset(
    {
        "alt-svc",
        "connection",
        "content-encoding",
        "content-length",
        "content-location",
        "content-type",
        "host",
        "keep-alive",
        "link",
        "location",
        "proxy-authorization",
        "refresh",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "accept-encoding",
        "expect",
        "date",
        "server",
    }
)


def header(headers: Headers, name: str) -> str:
    """The value of a header, empty when it is missing. Names are in lower case."""
    return next((value for found, value in headers if found == name), "")


async def respond(send: Send, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
    """A whole response."""
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers if body else headers[1:]})
    await send({"type": "http.response.body", "body": body})


class Upstream:
    """The server, over HTTP."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self.url = url
        self._client = client
        self._numbers = itertools.count(1)
        self._prefix = f"governed-{secrets.token_hex(8)}-"
        self._asking: set[asyncio.Task[None]] = set()

    def request(self, method: str, headers: Headers, body: bytes | None) -> Any:
        """A streamed response, as a context manager."""
        passed = [(name, value) for name, value in headers if name == "content-type" or name not in _NOT_PASSED]
        passed.append(("accept-encoding", "identity"))
        return self._client.stream(method, self.url, content=body, headers=passed)

    async def delete(self, headers: Headers) -> int:
        """Ends a session; the status."""
        try:
            async with self.request("DELETE", headers, None) as response:
                await whole(response, _MOST_UNREAD)
                return BAD_GATEWAY if response.is_redirect else int(response.status_code)
        except (httpx2.HTTPError, httpx2.StreamError, TooLarge):
            return BAD_GATEWAY

    async def post(self, headers: Headers, body: bytes) -> None:
        """A message that is the gateway's own and has no answer."""
        try:
            async with self.request("POST", headers, body) as response:
                await whole(response, _MOST_UNREAD)
        except (httpx2.HTTPError, httpx2.StreamError, TooLarge):
            return  # the server that asked is gone

    def ask(self, headers: Headers, request: Json, then: Came) -> None:
        """A request of the gateway's own; `then` gets the message that answers it, or why there is none."""
        task = asyncio.ensure_future(self._ask(headers, request, then))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, headers: Headers, request: Json, then: Came) -> None:
        identity = f"{self._prefix}{next(self._numbers)}"
        body = messages.dump({"jsonrpc": "2.0", "id": identity, **request})
        kept = [(name, value) for name, value in headers if name not in ("mcp-name", "mcp-method", "last-event-id")]
        kept = [(name, value) for name, value in kept if not name.startswith("mcp-param-")]
        kept.append(("mcp-method", request["method"]))
        found: Json | Exception = BadMessage(messages.INTERNAL_ERROR, "there was none")
        try:
            async with asyncio.timeout(OWN_SECONDS), self.request("POST", kept, body) as response:
                async for raw in bodies(response):
                    message = messages.read(raw, messages.MOST_SERVER)
                    if isinstance(message, Message) and message.id == identity and message.is_response:
                        found = message.value
                        break
        except (httpx2.HTTPError, httpx2.StreamError, BadMessage, TooLarge, TimeoutError) as error:
            found = error
        then(found)


async def bodies(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The messages of a response, whether they come as JSON or as a stream. TooLarge."""
    if response.headers.get("content-type", "").lower().startswith(STREAM):
        parser = Parser(messages.MOST_SERVER)
        async for piece in response.aiter_bytes():
            for event in parser.feed(piece):
                if event.data:
                    yield event.data
    else:
        yield await whole(response, messages.MOST_SERVER)


async def whole(response: httpx2.Response, most: int) -> bytes:
    """The body. TooLarge."""
    found = bytearray()
    async for piece in response.aiter_bytes():
        found += piece
        if len(found) > most:
            raise TooLarge(f"an answer of more than {most} bytes")
    return bytes(found)


class Posted:
    """One request. Its answer begins when it is known how: as a stream where something is said before the end."""

    def __init__(
        self,
        exchange: Exchange,
        batches: Batches,
        upstream: Upstream,
        headers: Headers,
        send: Send,
        began: Callable[[str], None] | None = None,
        ended: Callable[[], None] | None = None,
    ) -> None:
        """`began` is told the id of a session that the server begins with this request; `ended`, that it knows the
        session of this request no longer."""
        self._exchange = exchange
        self._batches = batches
        self._upstream = upstream
        self._headers = headers
        self._send = send
        self._decided: asyncio.Queue[tuple[bool, bytes]] = asyncio.Queue()  # whether to forward, and what
        self._requests: list[Id] = []
        self._streaming = False
        self._resumable = False  # the server has given the client a place to come back to
        self._began = began
        self._ended = ended

    # ---- to the server

    async def run(self, body: bytes) -> None:
        """Has the message decided, forwards what is approved, and answers."""
        try:
            message = messages.read(body, messages.MOST_CLIENT)
        except BadMessage as bad:
            await respond(self._send, 400, messages.error(bad.identity, bad.code, str(bad)), JSON)
            return
        reply, forward = partial(self._put, False), partial(self._put, True)
        if isinstance(message, Message):
            self._requests = [message.id] if message.is_request and message.id is not None else []
            self._exchange.from_client(message, reply, forward)
            if message.method == methods.CANCELLED and self._decided.empty():
                await respond(self._send, 202, b"")  # of a call that the server has never heard of
                return
        else:
            self._requests = [one.id for one in message if one.is_request and one.id is not None]
            self._batches.from_client(message, reply, forward)
        while True:
            to_server, data = await self._decided.get()
            if to_server:
                await self._forward(data)
                return
            if b'"method":"notifications/progress"' in data[:64]:  # a person is asked meanwhile
                await self._event(b"data: " + data + b"\r\n\r\n")
                continue
            await self._finish(data)
            return

    def _put(self, to_server: bool, data: bytes) -> None:
        self._decided.put_nowait((to_server, data))

    async def _finish(self, data: bytes) -> None:
        if self._streaming:
            await self._event(b"data: " + data + b"\r\n\r\n")
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await respond(self._send, 200, data, JSON)

    async def _forward(self, body: bytes) -> None:
        try:
            async with self._upstream.request("POST", self._headers, body) as response:
                if response.status_code == NOT_FOUND and self._ended is not None:
                    self._ended()
                elif self._began is not None and (session := response.headers.get("mcp-session-id", "")):
                    self._began(session)
                await self._answer(response)
        except (httpx2.HTTPError, httpx2.StreamError, TooLarge) as error:
            await self._failed(error)
            return
        # What has no answer now gets it from a stream that the client comes back for, or never.
        for identity in self._requests:
            if self._resumable:
                self._exchange.give_up_later(identity, KEPT_SECONDS)
            else:
                self._exchange.give_up(identity, "error")

    async def stream(self) -> None:
        """A GET: what the server says by itself."""
        try:
            async with self._upstream.request("GET", self._headers, None) as response:
                await self._answer(response)
        except (httpx2.HTTPError, httpx2.StreamError, TooLarge) as error:
            await self._failed(error)

    async def _failed(self, error: Exception) -> None:
        for identity in self._requests:
            self._exchange.give_up(identity, "error")
        if self._streaming:
            await self._send({"type": "http.response.body", "body": b""})
            return
        text = f"governed-mcpd cannot reach the server: {type(error).__name__}: {error}"[:500]
        await respond(self._send, BAD_GATEWAY, text.encode())

    # ---- from the server

    async def _answer(self, response: httpx2.Response) -> None:
        kind = response.headers.get("content-type", "").lower()
        if kind.startswith(STREAM):
            await self._begin(response)
            parser = Parser(messages.MOST_SERVER)
            async for piece in response.aiter_bytes():
                for event in parser.feed(piece):
                    self._resumable |= event.resumable
                    if event.data is None:
                        await self._event(event.encoded(None))
                    elif event.data == b"":  # only to give the stream an id
                        await self._event(event.encoded(b""))
                    elif (data := await self._passed(event.data)) is not None:
                        await self._event(event.encoded(data))
            await self._send({"type": "http.response.body", "body": b""})
            return
        body = await whole(response, messages.MOST_SERVER)
        status, passed = response.status_code, b""
        if 300 <= status < 400:  # the client would go there, and not through the gateway
            where = response.headers.get("location", "")[:300]
            said = f"the server redirects to {where!r}: start the gateway with the URL that --upstream is to have"
            status, passed = BAD_GATEWAY, messages.error(None, messages.INTERNAL_ERROR, said)
        elif kind.startswith(JSON) and body:
            nothing = "the server's answer answers nothing that was asked"
            passed = await self._passed(body) or messages.error(None, messages.INTERNAL_ERROR, nothing)
        elif body:  # of another kind than MCP has: some clients would read it all the same
            said = f"the server answers with HTTP status {status} and {kind[:100] or 'no content type'}"
            passed = messages.error(None, messages.INTERNAL_ERROR, said)
        if self._streaming:
            await self._finish(passed)
            return
        encoded = _encoded(response, JSON) if passed else _encoded(response, "")
        encoded.append((b"content-length", str(len(passed)).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})
        await self._send({"type": "http.response.body", "body": passed})

    async def _passed(self, raw: bytes) -> bytes | None:
        """What of a message of the server goes on to the client; None for nothing."""
        try:
            message = messages.read(raw, messages.MOST_SERVER)
        except BadMessage as bad:
            identity = messages.guess_id(raw)
            known = self._exchange.unreadable(identity, bad) if identity is not None else None
            return known or messages.error(None, messages.INTERNAL_ERROR, f"the server's answer cannot be read: {bad}")
        if isinstance(message, Message) and message.id is None and message.is_response:
            return message.raw  # an error about a request whose id the server could not read
        found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if isinstance(message, Message):
            if not self._exchange.from_server(message, found.set_result, self._answer_server):
                return None
            data = await found
            extra = self._batches.answers_with(message.id) if message.is_response and message.id is not None else []
            return data if not extra else b"[" + b",".join([data, *extra]) + b"]"
        return await found if self._batches.from_server(message, found.set_result, self._answer_server) else None

    def _answer_server(self, data: bytes) -> None:
        self._task = asyncio.ensure_future(self._upstream.post(self._headers, data))

    # ---- to the client

    async def _begin(self, response: httpx2.Response) -> None:
        if self._streaming:
            return
        self._streaming = True
        start = {"type": "http.response.start", "status": response.status_code, "headers": _encoded(response, STREAM)}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def _event(self, data: bytes) -> None:
        if not self._streaming:
            self._streaming = True
            headers = [(b"content-type", STREAM.encode()), (b"cache-control", b"no-cache, no-transform")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def give_up(self, *, keep: bool) -> None:
        """The client has closed its end. In a session it may come back for the answer (`keep`), where it was given a
        place to come back to; otherwise it has cancelled."""
        for identity in self._requests:
            if keep and self._resumable:
                self._exchange.give_up_later(identity, KEPT_SECONDS)
            else:
                self._exchange.give_up(identity)


def _encoded(response: httpx2.Response, kind: str) -> list[tuple[bytes, bytes]]:
    """The headers that go on, with a content type of the gateway's own, where there is one."""
    found = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _NOT_PASSED]
    found += [("content-type", kind)] if kind else []
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in found]
