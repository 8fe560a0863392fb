"""JSON-RPC messages as they come over the wire: parsed once, strictly, within bounds, and written in one spelling."""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from governed_mcpd.gate import strictjson

MOST_CLIENT = 16 * 1024 * 1024  # bytes of one message
MOST_SERVER = 64 * 1024 * 1024
MOST_VALUES = 2_000_000
MOST_BATCH = 128
MOST_ID = 2**53 - 1
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INTERNAL_ERROR = -32700, -32600, -32601, -32603
REFUSED = -32010  # of the range that JSON-RPC leaves to implementations; MCP reserves none of it here
Id = int | str
Json = dict[str, Any]


class BadMessage(ValueError):
    """Bytes that are no message. `code` is JSON-RPC's; the text says what is wrong and may be shown to either side."""

    def __init__(self, code: int, message: str, identity: Id | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.identity = identity


@dataclass(slots=True)
class Message:
    """One message. `raw` is what came, on one line, and what is passed on when nothing in it is changed."""

    value: Json
    raw: bytes

    @property
    def id(self) -> Id | None:
        """Of a request or a response; None for a notification, and for a response to something unreadable."""
        found = self.value.get("id")
        if isinstance(found, str) or (isinstance(found, int) and not isinstance(found, bool) and abs(found) <= MOST_ID):
            return found
        return None

    @property
    def method(self) -> str:
        """Empty for a response."""
        found = self.value.get("method")
        return found if isinstance(found, str) else ""

    @property
    def params(self) -> Json:
        found = self.value.get("params")
        return found if isinstance(found, dict) else {}

    @property
    def is_request(self) -> bool:
        return bool(self.method) and "id" in self.value

    @property
    def is_response(self) -> bool:
        return "method" not in self.value and ("result" in self.value or "error" in self.value)


def read(raw: bytes, most: int) -> Message | list[Message]:
    """The message, or the batch, that `raw` is. BadMessage."""
    try:
        value = strictjson.parse(raw, most, MOST_VALUES)
    except strictjson.StrictJSONError as error:
        raise BadMessage(PARSE_ERROR, f"the message cannot be read: {error}") from None
    if isinstance(value, list):
        if not 0 < len(value) <= MOST_BATCH:
            raise BadMessage(INVALID_REQUEST, f"a batch of {len(value)} messages: expected 1 to {MOST_BATCH}")
        return [_checked(item, dump(item)) for item in value]
    return _checked(value, raw.translate(_ONE_LINE))


# In JSON they are blanks, and stand in no string. To a reader that ends lines at CR as well, as Python's does, one
# message with a CR in it is several, of which only the whole was judged.
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


def _checked(value: Any, raw: bytes) -> Message:
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise BadMessage(INVALID_REQUEST, 'a message is an object with "jsonrpc": "2.0"')
    message = Message(value, raw)
    if "id" in value and message.id is None and not (value["id"] is None and message.is_response):
        raise BadMessage(INVALID_REQUEST, "an id is a string or an integer of at most 53 bits")
    if "method" in value and (not message.method or "result" in value or "error" in value):
        raise BadMessage(INVALID_REQUEST, "a message is a request or a response, not both", message.id)
    if "method" not in value and ("result" in value) == ("error" in value):
        raise BadMessage(INVALID_REQUEST, "a response has a result or an error, and no other member says", message.id)
    if not isinstance(value.get("params", {}), dict):
        raise BadMessage(INVALID_REQUEST, "params is an object", message.id)
    try:
        in_one_way(value, _MEMBERS)
        for name, known in _WITHIN.items():
            if isinstance(part := value.get(name), dict):
                in_one_way(part, known)
    except BadMessage as bad:
        bad.identity = message.id
        raise
    return message


def told(error: Exception) -> str:
    """What a client may be told of why a server's message is not passed: nothing that the server has chosen, for what
    stands in an error of the gateway is the gateway's word."""
    return _QUOTED.sub("…", str(error)) if isinstance(error, BadMessage) else type(error).__name__


_QUOTED = re.compile("""['"].*['"]""", re.DOTALL)


def in_one_way(value: Json, known: frozenset[str] = frozenset()) -> None:
    """BadMessage where two members differ in case only, or one is a known one but for its case: some readers (Go's
    encoding/json, .NET's) take them for the same."""
    if value.keys() <= known:
        return
    seen = {name.casefold(): name for name in known}
    for name in value:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise BadMessage(INVALID_REQUEST, f"the member {name[:60]!r} is {other[:60]!r} to some readers")


# What is judged, filtered or looked through, by its name.
_MEMBERS = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
_WITHIN = {
    "params": frozenset({"name", "arguments", "_meta", "task", "taskId", "uri", "cursor", "requestId"}),
    "result": frozenset(
        {"tools", "content", "contents", "messages", "structuredContent", "isError", "nextCursor", "resultType"}
        | {"prompts", "resources", "resourceTemplates", "instructions", "protocolVersion", "_meta", "task"}
    ),
    "error": frozenset({"code", "message", "data"}),
}


def dump(value: Any) -> bytes:
    """JSON in one spelling: no blanks, members in their order, UTF-8. BadMessage for what it cannot say exactly."""
    try:
        return orjson.dumps(value)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise BadMessage(PARSE_ERROR, f"the message cannot be written: {error}") from None


def dump_exact(value: Any) -> bytes:
    """The same for what is judged: integers beyond ±(2^53-1) are read differently by different programs. BadMessage."""
    try:
        return orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    except (orjson.JSONEncodeError, RecursionError) as error:
        reason = f"the arguments cannot be told exactly: {error} (numbers beyond 53 bits go as strings)"
        raise BadMessage(INVALID_REQUEST, reason) from None


def canonical(value: Any) -> bytes:
    """JSON with the members of every object sorted: of equal values, equal bytes. BadMessage."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise BadMessage(PARSE_ERROR, f"it cannot be written: {error}") from None


def answer_to(identity: Id, message: Message) -> Message:
    """A response with the id that it has not. BadMessage."""
    value = {**message.value, "id": identity}
    return Message(value, dump(value))


def result(identity: Id | None, value: Json) -> bytes:
    """A response."""
    return dump({"jsonrpc": "2.0", "id": identity, "result": value})


def error(identity: Id | None, code: int, message: str) -> bytes:
    """An error response."""
    return dump({"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": message}})


def notification(method: str, params: Json) -> bytes:
    """What wants no answer."""
    return dump({"jsonrpc": "2.0", "method": method, "params": params})


ID_WITHIN = 1024  # bytes of either end of a message
_ID = re.compile(rb'\A\s*\{(?:\s*"jsonrpc"\s*:\s*"2\.0"\s*,)?\s*"id"\s*:\s*("[^"\\]{1,200}"|-?[0-9]{1,15})')
_LAST_ID = re.compile(rb'"id"\s*:\s*("[^"\\]{1,200}"|-?[0-9]{1,15})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')


def guess_id(raw: bytes) -> Id | None:
    """The id of a message that cannot be read, if it stands at its beginning or end: who waits for it can be told."""
    found = _ID.search(raw[:ID_WITHIN]) or _LAST_ID.search(raw[-ID_WITHIN:])
    if found is None:
        return None
    identity: Id = orjson.loads(found[1])
    return identity


def key(identity: Id) -> tuple[bool, Id]:
    """For a dictionary: the id 1 is not the id "1"."""
    return isinstance(identity, str), identity
