"""Batches of JSON-RPC, which one revision of MCP has (2025-03-26): each message by itself, and their answers together.

What of a batch is refused, or answered here, is answered in the array that the server's answers come in.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from governed_mcpd.gateway import messages, methods
from governed_mcpd.gateway.exchange import Exchange
from governed_mcpd.gateway.messages import Id, Message

Send = Callable[[bytes], None]


@dataclass(slots=True)
class _Batch:
    """`left` messages are not decided; then `out` goes to the server as one array."""

    left: int
    reply: Send
    forward: Send
    withdrawn: Callable[[], None]
    requests: set[tuple[bool, Id]] = field(default_factory=set)  # that the server got
    out: list[tuple[Message, bytes]] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)


class Batches:
    """Of one exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._open: list[_Batch] = []

    def from_client(self, batch: list[Message], reply: Send, forward: Send, withdrawn: Callable[[], None]) -> None:
        """Has each message decided; forwards them together when all are. `withdrawn` is called where nothing is left
        to answer or to forward."""
        if self._exchange.version not in methods.BATCH_VERSIONS:
            text = f"a batch: this session's version of MCP ({self._exchange.version or 'none yet'}) has none"
            reply(messages.error(None, messages.INVALID_REQUEST, text))
            return
        found = _Batch(len(batch), reply, forward, withdrawn)
        for message in batch:
            self._exchange.from_client(
                message,
                partial(self._answered, found),
                partial(self._forwarded, found, message),
                partial(self._decided, found),
            )

    def _answered(self, batch: _Batch, data: bytes) -> None:
        if b'"method":"notifications/progress"' in data:  # a call that waits: the batch waits with it
            batch.reply(data)
            return
        batch.answers.append(data)
        self._decided(batch)

    def _forwarded(self, batch: _Batch, message: Message, data: bytes) -> None:
        batch.out.append((message, data))
        self._decided(batch)

    def _decided(self, batch: _Batch) -> None:
        batch.left -= 1
        if batch.left:
            return
        # While the last of it waited, the client may have withdrawn the others, or gone: what has ended is not begun.
        out = [data for message, data in batch.out if self._is_wanted(message)]
        asked = [message.id for message, _ in batch.out if message.is_request and message.id is not None]
        batch.requests = {messages.key(one) for one in self._exchange.pending_of(asked)}
        if batch.requests:
            self._open.append(batch)
        if out:
            batch.forward(_array(out))
        if batch.answers and not batch.requests:
            batch.reply(_array(batch.answers))
        elif not out:
            batch.withdrawn()

    def _is_wanted(self, message: Message) -> bool:
        """Responses and notifications of the client always are."""
        return not message.is_request or message.id is None or self._exchange.wanted(message.id)

    def from_server(
        self, batch: list[Message], deliver: Send, answer: Send, requests: Collection[Id] | None = None
    ) -> bool:
        """Each message by itself; what is delivered goes together, with the answers that were given here. False when
        nothing is, or will be, delivered."""
        collected = [data for message in batch if message.id is not None for data in self._given(message)]
        expected = len(batch) + len(collected)

        def came(data: bytes | None) -> None:
            nonlocal expected
            if data is None:
                expected -= 1
            else:
                collected.append(data)
            if len(collected) == expected and collected:
                deliver(_array(collected))

        # What was dropped is counted last: an answer that comes at once must not end the counting before it.
        dropped = [message for message in batch if not self._exchange.from_server(message, came, answer, requests)]
        for _ in dropped:
            came(None)
        return expected > 0

    def _given(self, message: Message) -> list[bytes]:
        return self.answers_with(message.id) if message.is_response and message.id is not None else []

    def together(self, identity: Id | None, data: bytes) -> bytes:
        """An answer of the server that came by itself, with those that were given here to the same batch."""
        extra = self.answers_with(identity) if identity is not None else []
        return _array([data, *extra]) if extra else data

    def answers_with(self, identity: Id) -> list[bytes]:
        """The answers that were given here to the batch of which the server answers `identity`."""
        for batch in self._open:
            if messages.key(identity) in batch.requests:
                self._open.remove(batch)
                return batch.answers
        return []


def _array(items: list[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
