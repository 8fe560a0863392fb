"""What is about to happen: a ToolCall or a SideEffect of a Subject, with its Context.

Names of objects are `str` in the surrogateescape form of the bytes that the kernel knows (os.fsdecode), so that a path
that is not UTF-8 stays exactly itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.subject import Subject

_NO_DETAILS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SideEffect:
    """One operation on one canonical object.

    `object` is an absolute path with every symlink resolved; `tcp:HOST:PORT`, `udp:HOST:PORT` (IPv6 in brackets; HOST
    is the name that the Subject looked up where the address came from one, and `address` among the details what it is);
    `name:HOST` of net.resolve; `unix:PATH`, `unix:@NAME`; or `process:PID`. `second` is the other object of rename and
    link, and the target text of symlink. `argv` belongs to process.exec.
    """

    operation: Operation
    object: str
    second: str = ""
    argv: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=lambda: _NO_DETAILS)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """An MCP tools/call. `arguments` is JSON in one spelling (no blanks, no member twice, members in their order): the
    very bytes that are judged are those that the server gets. `input_schema` is JSON as the server listed it and as it
    was pinned; empty where it is not known.
    """

    server: str
    tool: str
    arguments: bytes
    input_schema: bytes = b""


@dataclass(frozen=True, slots=True)
class Untrusted:
    """Text that reached the agent from outside the user."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Context:
    """What surrounds an Action. `task` is empty when the user's side gave none."""

    task: str = ""
    directories: tuple[str, ...] = ()
    home: str = ""
    scratch: str = ""
    calls: tuple[ToolCall, ...] = ()
    earlier: tuple[SideEffect, ...] = ()
    untrusted: tuple[Untrusted, ...] = ()


@dataclass(frozen=True, slots=True)
class Action:
    """A ToolCall or a SideEffect of a Subject."""

    id: str
    subject: Subject
    what: SideEffect | ToolCall
    context: Context
