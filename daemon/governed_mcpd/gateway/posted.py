"""One HTTP request of a client, to the server and back: a message in the body, answers as JSON or as a stream.

On a response there are answers to the requests that it is of, and to no others: clients take what comes on a response
for the answer to what they sent, whatever id it bears.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx2

from governed_mcpd.gateway import messages
from governed_mcpd.gateway.batch import Batches
from governed_mcpd.gateway.exchange import Exchange
from governed_mcpd.gateway.messages import BadMessage, Id, Message
from governed_mcpd.gateway.sse import Parser
from governed_mcpd.gateway.upstream import BAD_GATEWAY, JSON, STREAM, Headers, Upstream, passed_on, status_of, whole

ACCEPTED, NOT_FOUND = 202, 404
KEPT_SECONDS = 600.0  # for a client that comes back for the rest of a stream
MOST_PLACES = 4096  # of a session
Send = Callable[[dict[str, Any]], Awaitable[None]]


def header(headers: Headers, name: str) -> str:
    """The value of a header, empty when it is missing. Names are in lower case."""
    return next((value for found, value in headers if found == name), "")


async def respond(send: Send, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
    """A whole response."""
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers if body else headers[1:]})
    await send({"type": "http.response.body", "body": body})


class Places:
    """Where clients can come back to in streams that broke off: the ids of events, and whose answers come there."""

    def __init__(self) -> None:
        self._requests: dict[str, list[Id]] = {}

    def note(self, event: str, requests: list[Id]) -> None:
        self._requests[event] = requests
        if len(self._requests) > MOST_PLACES:
            del self._requests[next(iter(self._requests))]

    def of(self, event: str) -> list[Id]:
        return self._requests.get(event, [])


class Posted:
    """One request. Its answer begins when it is known how: as a stream where something is said before the end."""

    def __init__(
        self,
        exchange: Exchange,
        batches: Batches,
        places: Places,
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
        self._places = places
        self._upstream = upstream
        self._headers = headers
        self._send = send
        # Whether to forward, and what; None for what the client has withdrawn.
        self._decided: asyncio.Queue[tuple[bool, bytes] | None] = asyncio.Queue()
        self._requests: list[Id] = []  # whose answers come on this response
        self._streaming = False
        self._in_session = bool(header(headers, "mcp-session-id"))
        self._resumable = False  # the server has given the client a place to come back to
        self._began = began
        self._ended = ended

    # ---- to the server

    async def run(self, body: bytes) -> None:
        """Has the message decided, forwards what is approved, and answers."""
        try:
            await self._run(body)
        except Exception as error:  # whatever it is: what was let through has an end, and the client an answer
            await self._failed(error)

    async def _run(self, body: bytes) -> None:
        try:
            message = messages.read(body, messages.MOST_CLIENT)
        except BadMessage as bad:
            await respond(self._send, 400, messages.error(bad.identity, bad.code, str(bad)), JSON)
            return
        ways = partial(self._put, False), partial(self._put, True), partial(self._decided.put_nowait, None)
        self._upstream.latest = self._headers
        if isinstance(message, Message):
            self._requests = [message.id] if message.is_request and message.id is not None else []
            self._exchange.from_client(message, *ways)
        else:
            self._requests = [one.id for one in message if one.is_request and one.id is not None]
            self._batches.from_client(message, *ways)
        while (decided := await self._decided.get()) is not None:
            to_server, data = decided
            if to_server and self._decided.empty():
                await self._forward(data)
                return
            if to_server:  # of a batch: what has no answer goes, and what has one was answered here
                await self._upstream.post(self._headers, data)
            elif b'"method":"notifications/progress"' in data[:64]:  # a person is asked meanwhile
                await self._event(b"data: " + data + b"\r\n\r\n")
            else:
                await self._finish(data)
                return
        if self._streaming:
            await self._close()
        else:
            await respond(self._send, ACCEPTED, b"")

    def _put(self, to_server: bool, data: bytes) -> None:
        self._decided.put_nowait((to_server, data))

    async def _forward(self, body: bytes) -> None:
        async with self._upstream.request("POST", self._headers, body) as response:
            if self._began is not None and (session := response.headers.get("mcp-session-id", "")):
                self._began(session)
                self._in_session = True
            await self._answer(response)
        if response.status_code == NOT_FOUND and self._ended is not None:
            self._ended()

    async def stream(self) -> None:
        """A GET: what the server says by itself, or the rest of a stream that broke off."""
        self._requests = self._places.of(header(self._headers, "last-event-id"))
        self._resumable = True  # as it has come back, it can again
        self._exchange.taken_up(self._requests)
        try:
            async with self._upstream.request("GET", self._headers, None) as response:
                await self._answer(response)
        except Exception as error:
            await self._failed(error)

    # ---- from the server

    async def _answer(self, response: httpx2.Response) -> None:
        kind = response.headers.get("content-type", "").lower()
        if kind.startswith(STREAM) and not response.is_redirect:
            await self._stream(response)
            return
        body = await whole(response, messages.MOST_SERVER)
        status, said = status_of(response), ""
        passed: bytes | None = b""
        if response.is_redirect:  # the client would go there, and not through the gateway
            print(f"governed: the server redirects to {response.headers.get('location', '')!r}", file=sys.stderr)
            status, said = BAD_GATEWAY, "the server redirects elsewhere: --upstream has to be its own URL"
        elif body and kind.startswith(JSON):
            passed, said = await self._passed(body), "the server's answer answers nothing that was asked"
        elif body or self._streaming or (status >= 400 and self._exchange.pending_of(self._requests)):
            # Of another kind than MCP has: some clients would read it all the same.
            said = f"the server's answer, with HTTP status {status}, is neither JSON nor a stream of events"
        instead = self._instead(said)
        if said and not passed:
            nobody = messages.error(None, messages.INTERNAL_ERROR, f"governed-mcpd: {said}")
            passed = _together(instead) if instead else nobody
        passed = passed or b""
        if self._streaming:
            await self._finish(passed)
            return
        headers = [*passed_on(response, JSON if passed else ""), (b"content-length", str(len(passed)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": passed})

    async def _stream(self, response: httpx2.Response) -> None:
        await self._begin(response)
        parser = Parser(messages.MOST_SERVER)
        async for piece in response.aiter_bytes():
            for event in parser.feed(piece):
                if event.place and self._in_session:
                    self._resumable = True
                    self._places.note(event.place, self._requests)
                if event.data is None or event.kind not in ("", "message"):  # MCP has no other, and clients ignore them
                    await self._event(event.encoded(None))
                elif event.data == b"":  # only to give the stream an id
                    await self._event(event.encoded(b""))
                elif (data := await self._passed(event.data, in_stream=True)) is not None:
                    await self._event(event.encoded(data))
        for data in self._instead("the server has ended its stream before it answered"):
            await self._event(b"data: " + data + b"\r\n\r\n")
        await self._close()

    async def _passed(self, raw: bytes, *, in_stream: bool = False) -> bytes | None:
        """What of a message of the server goes on to the client; None for nothing."""
        own = self._exchange.pending_of(self._requests)
        try:
            message = messages.read(raw, messages.MOST_SERVER)
        except BadMessage as bad:
            identity = messages.guess_id(raw)
            if identity not in own:  # there is more to come in a stream; a body is the answer
                identity = own[0] if len(own) == 1 and not in_stream else None
            error = self._exchange.unreadable(identity, bad) if identity is not None else None
            return self._batches.together(identity, error) if error is not None else None
        found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        deliver = partial(_deliver, found)
        if not isinstance(message, Message):
            there = self._batches.from_server(message, deliver, self._answer_server, self._requests)
            return await found if there else None
        if message.is_response and message.id is None and len(own) == 1:
            # A server that could not read the id: clients take it for the answer to what they sent.
            message = messages.answer_to(own[0], message)
        if not self._exchange.from_server(message, deliver, self._answer_server, self._requests):
            return None
        data = await found
        return self._batches.together(message.id, data) if message.is_response else data

    def _answer_server(self, data: bytes) -> None:
        self._task = asyncio.ensure_future(self._upstream.post(self._headers, data))

    def _instead(self, text: str) -> list[bytes]:
        """Errors for what has no answer, which ends with them; nothing for what the client can come back for."""
        unanswered = self._exchange.pending_of(self._requests)
        for identity in unanswered:
            if self._resumable:
                self._exchange.give_up_later(identity, KEPT_SECONDS)
            else:
                self._exchange.give_up(identity, "error")
        if self._resumable:
            return []
        errors = [messages.error(one, messages.INTERNAL_ERROR, f"governed-mcpd: {text}") for one in unanswered]
        return errors + [answer for one in unanswered for answer in self._batches.answers_with(one)]

    async def _failed(self, error: Exception) -> None:
        print(f"governed: {type(error).__name__}: {error}"[:2000], file=sys.stderr)
        text = f"the server cannot be reached, or not be followed: {messages.told(error)}"
        if self._streaming:
            for data in self._instead(text):
                await self._event(b"data: " + data + b"\r\n\r\n")
            await self._close()
            return
        instead = self._instead(text)
        if instead:
            await respond(self._send, BAD_GATEWAY, _together(instead), JSON)
        else:
            await respond(self._send, BAD_GATEWAY, f"governed-mcpd: {text}".encode())

    # ---- to the client

    async def _begin(self, response: httpx2.Response) -> None:
        if self._streaming:
            return
        self._streaming = True
        start = {"type": "http.response.start", "status": status_of(response), "headers": passed_on(response, STREAM)}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def _event(self, data: bytes) -> None:
        if not self._streaming:
            self._streaming = True
            headers = [(b"content-type", STREAM.encode()), (b"cache-control", b"no-cache, no-transform")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _finish(self, data: bytes) -> None:
        if self._streaming:
            await self._event(b"data: " + data + b"\r\n\r\n")
            await self._close()
        else:
            await respond(self._send, 200, data, JSON)

    async def _close(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    def give_up(self, *, keep: bool) -> None:
        """The client has closed its end. In a session it may come back for the answer (`keep`), where it was given a
        place to come back to; otherwise it has cancelled."""
        for identity in self._requests:
            if keep and self._resumable:
                self._exchange.give_up_later(identity, KEPT_SECONDS)
            else:
                self._exchange.give_up(identity)


def _together(answers: list[bytes]) -> bytes:
    return answers[0] if len(answers) == 1 else b"[" + b",".join(answers) + b"]"


def _deliver(found: "asyncio.Future[bytes]", data: bytes) -> None:
    if not found.done():  # its client has gone meanwhile
        found.set_result(data)
