"""The server, over HTTP: requests to it, and what of its answers' headers goes on."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2

from governed_mcpd.gateway import messages
from governed_mcpd.gateway.messages import BadMessage, Json, Message
from governed_mcpd.gateway.sse import Parser, TooLarge
from governed_mcpd.gateway.tools import OWN_SECONDS, Came

JSON, STREAM = "application/json", "text/event-stream"
BAD_GATEWAY = 502
CONNECT_SECONDS = 30.0
_MOST_UNREAD = 1024 * 1024  # bytes of an answer that nobody looks at
Headers = list[tuple[str, str]]  # names in lower case, values in Latin-1, as they came
# RFC 9110, 7.6.1, what the two connections have each for themselves, and what would lead the client past the gateway.
_NOT_PASSED = frozenset(
    {
        "accept-encoding",
        "alt-svc",
        "connection",
        "content-encoding",
        "content-length",
        "content-location",
        "content-type",
        "date",
        "expect",
        "host",
        "keep-alive",
        "link",
        "location",
        "proxy-authorization",
        "refresh",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def client() -> httpx2.AsyncClient:
    """What goes to the server comes from the clients alone: no proxy of the environment, no redirect, and no cookie
    that another client was given."""
    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


class Upstream:
    """The server. `latest` are the headers of the client's message that is looked at: the gateway's own requests on
    its behalf have the same."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self.url = url
        self.latest: Headers = []
        self._client = client
        self._numbers = itertools.count(1)
        self._prefix = f"governed-{secrets.token_hex(8)}-"
        self._asking: set[asyncio.Task[None]] = set()

    def request(self, method: str, headers: Headers, body: bytes | None) -> Any:
        """A streamed response, as a context manager. The body is UTF-8, as it was judged, whatever the client calls it:
        a server that is told of UTF-7 reads other arguments."""
        passed = [(name, value) for name, value in headers if name not in _NOT_PASSED]
        passed.append(("accept-encoding", "identity"))
        if body is not None:
            passed.append(("content-type", JSON))
        return self._client.stream(method, self.url, content=body, headers=_bytes(passed))

    async def delete(self, headers: Headers) -> int:
        """Ends a session; the status."""
        try:
            async with self.request("DELETE", headers, None) as response:
                await whole(response, _MOST_UNREAD)
                return BAD_GATEWAY if response.is_redirect else int(response.status_code)
        except (httpx2.HTTPError, httpx2.StreamError, TooLarge):
            return BAD_GATEWAY

    async def post(self, headers: Headers, body: bytes) -> None:
        """A message that has no answer; `headers` may be those of a GET."""
        kept = [(name, value) for name, value in headers if name not in ("accept", "last-event-id")]
        kept.append(("accept", f"{JSON}, {STREAM}"))
        try:
            async with self.request("POST", kept, body) as response:
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
        kept = [(name, value) for name, value in headers if name not in ("mcp-name", "mcp-method", "last-event-id")]
        kept = [(name, value) for name, value in kept if not name.startswith("mcp-param-")]
        kept.append(("mcp-method", request["method"]))
        found: Json | Exception = BadMessage(messages.INTERNAL_ERROR, "there was none")
        try:
            body = messages.dump({"jsonrpc": "2.0", "id": identity, **request})
            async with asyncio.timeout(OWN_SECONDS), self.request("POST", kept, body) as response:
                async for raw in _messages_of(response):
                    message = messages.read(raw, messages.MOST_SERVER)
                    if isinstance(message, Message) and message.id == identity and message.is_response:
                        found = message.value
                        break
        except Exception as error:  # whatever it is: all clients' lists and calls wait for this
            found = error
        then(found)


async def _messages_of(response: httpx2.Response) -> AsyncIterator[bytes]:
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


def status_of(response: httpx2.Response) -> int:
    """One that HTTP has."""
    return response.status_code if 200 <= response.status_code < 600 else BAD_GATEWAY


def passed_on(response: httpx2.Response, kind: str) -> list[tuple[bytes, bytes]]:
    """The headers that go on to the client, with a content type of the gateway's own (none, where it is empty)."""
    found = [(name.lower(), value) for name, value in response.headers.raw]
    found = [(name, value) for name, value in found if name.decode("latin-1") not in _NOT_PASSED]
    return [*found, *_bytes([("content-type", kind)] if kind else [])]


def _bytes(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
