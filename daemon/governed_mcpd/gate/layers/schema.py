"""Layer 1: a tool call fits its tool's schema; a side effect is well formed."""

import ipaddress
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

import jsonschema_rs

from governed_mcpd.gate import strictjson
from governed_mcpd.gate.layers.finding import PASS, Finding
from governed_mcpd.gate.reading import MalformedArguments, Reading
from governed_mcpd.nouns.action import SideEffect, ToolCall
from governed_mcpd.nouns.operation import NETWORK, Operation
from governed_mcpd.nouns.pattern import NAME, split_endpoint
from governed_mcpd.policy.documents import Tool

PATH_MAX = 4096  # linux/limits.h; counts the NUL at the end
NAME_MAX = 255  # linux/limits.h
UNIX_PATH_MAX = 108  # linux/un.h
MAX_SCHEMA = 256 * 1024
MAX_WORDS = 65_536
MAX_ARGV_BYTES = 2 * 1024 * 1024  # execve(2): a quarter of the usual 8 MiB stack
MAX_DETAILS = 64
MAX_DETAIL = 4096
_REGEX_BYTES = 1 << 20
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*")
_LOOKED_UP = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_PID = re.compile(r"process:-?[1-9][0-9]{0,9}")
_TWO_PATHS = (Operation.FILE_RENAME, Operation.FILE_LINK)


class SchemaError(ValueError):
    """A Tool document whose input schema cannot be used. The text names server, tool and reason."""


def _refuse_remote(uri: str) -> NoReturn:
    # Tool schemas come from strangers: a reference that is fetched is a request that the stranger chose.
    raise ValueError(f"{uri} is a remote reference: they are refused")


def compile_schema(server: str, tool: str, schema: Mapping[str, object]) -> jsonschema_rs.Validator:
    """A validator whose patterns match in linear time and that fetches nothing. Raises SchemaError."""
    try:
        return jsonschema_rs.validator_for(
            dict(schema),
            retriever=_refuse_remote,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_REGEX_BYTES, dfa_size_limit=_REGEX_BYTES),
        )
    except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
        first = str(error).splitlines()[0]
        raise SchemaError(f"Tool {server}, tools.{tool}.input_schema: {first[:200]}") from None


class SchemaLayer:
    """Refuses what is not known (tools, servers) and what is not well formed."""

    name = "schema"

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        """Compiles every schema. Raises SchemaError."""
        self._servers = set(tools)
        self._tools: dict[tuple[str, str], jsonschema_rs.Validator | None] = {}
        for server, document in tools.items():
            for tool, entry in document.tools.items():
                schema = entry.input_schema
                self._tools[server, tool] = None if schema is None else compile_schema(server, tool, schema)

    def check(self, reading: Reading) -> Finding:
        """Layer 1 on one action."""
        what = reading.action.what
        if isinstance(what, ToolCall):
            return self._check_call(what, reading)
        problem = problem_of_effect(what)
        return Finding("deny", "malformed", problem) if problem else PASS

    def _check_call(self, call: ToolCall, reading: Reading) -> Finding:
        if call.server not in self._servers:
            return Finding("deny", "unknown-tool", f"no Tool document for the server {call.server[:128]!r}")
        if (call.server, call.tool) not in self._tools:
            return Finding("deny", "unknown-tool", f"the Tool document {call.server} has no tool {call.tool[:128]!r}")
        try:
            arguments = reading.arguments
        except MalformedArguments as error:
            return Finding("deny", "malformed", str(error))
        # The policy's schema, and what the server itself listed and somebody approved: neither may be overstepped.
        return _misfit(self._tools[call.server, call.tool], arguments) or self._check_listed(call, arguments) or PASS

    def _check_listed(self, call: ToolCall, arguments: dict[str, Any]) -> Finding | None:
        if not call.input_schema:
            return None
        try:
            return _misfit(_listed(call.input_schema), arguments)
        except SchemaError as error:
            return Finding("deny", "schema-unusable", f"{call.tool}: the schema that the server lists: {error}"[:400])


def _misfit(validator: jsonschema_rs.Validator | None, arguments: dict[str, Any]) -> Finding | None:
    """What does not fit; None when everything does."""
    if validator is None or validator.is_valid(arguments):
        return None
    for misfit in validator.iter_errors(arguments):
        where = "/".join(str(step) for step in misfit.instance_path) or "the arguments"
        return Finding("deny", "schema", f"{where}: {misfit.message[:200]}")
    return Finding("deny", "schema", "the arguments do not fit the tool's input schema")


@lru_cache(maxsize=1024)
def _listed(text: bytes) -> jsonschema_rs.Validator:
    """The validator of a schema that a server listed: compiled once, strictly. Raises SchemaError."""
    try:
        schema = strictjson.parse(text, MAX_SCHEMA)
    except strictjson.StrictJSONError as error:
        raise SchemaError(str(error)) from None
    if not isinstance(schema, dict):
        raise SchemaError("it is not an object")
    return compile_schema("listed", "listed", schema)


def problem_of_effect(effect: SideEffect) -> str:
    """What is not well formed about a side effect; empty when nothing is."""
    if effect.argv and effect.operation is not Operation.PROCESS_EXEC:
        return f"argv belongs to process.exec, not to {effect.operation}"
    if problem := _problem_of_details(effect):
        return problem
    if effect.operation in NETWORK:
        return problem_of_endpoint(effect.object) or _no_second(effect)
    if effect.operation is Operation.NET_RESOLVE:
        return problem_of_name(effect.object) or _no_second(effect)
    if effect.operation is Operation.PROCESS_SIGNAL:
        if _PID.fullmatch(effect.object) is None:
            return f"object {effect.object[:80]!r}: expected process:PID"
        return _no_second(effect)
    if problem := problem_of_path(effect.object):
        return f"object {problem}"
    if effect.operation is Operation.PROCESS_EXEC:
        return _problem_of_argv(effect.argv) or _no_second(effect)
    if effect.operation in _TWO_PATHS:
        problem = problem_of_path(effect.second)
        return f"second {problem}" if problem else ""
    if effect.operation is Operation.FILE_SYMLINK:
        return _problem_of_target(effect.second)
    return _no_second(effect)


def problem_of_path(path: str) -> str:
    """Why `path` is not a canonical absolute path; empty when it is."""
    if not path.startswith("/"):
        return f"{path[:80]!r} is not an absolute path"
    if "\0" in path:
        return "has a NUL byte"
    if len(os.fsencode(path)) >= PATH_MAX:
        return f"is longer than {PATH_MAX - 1} bytes"
    if path == "/":
        return ""
    for part in path[1:].split("/"):
        if part in ("", ".", ".."):
            return f"{path[:80]!r} is not canonical (it has //, /./, /../ or ends in /)"
        if len(part) > NAME_MAX or (not part.isascii() and len(os.fsencode(part)) > NAME_MAX):
            return f"has a name of more than {NAME_MAX} bytes"
    return ""


def problem_of_endpoint(name: str) -> str:
    """Why `name` is not tcp:HOST:PORT, udp:HOST:PORT, unix:PATH or unix:@NAME; empty when it is."""
    if name.startswith("unix:"):
        rest = name[5:]
        if len(os.fsencode(rest)) > PATH_MAX:
            return f"object is longer than {PATH_MAX} bytes"
        if rest.startswith("@"):
            return "" if len(rest) > 1 else "object unix:@ has no name"
        problem = problem_of_path(rest)
        return f"object unix: {problem}" if problem else ""
    parts = split_endpoint(name)
    if parts is None:
        return f"object {name[:80]!r}: expected tcp:HOST:PORT, udp:HOST:PORT, unix:PATH or unix:@NAME"
    _, host, port = parts
    if not (port.isascii() and port.isdigit() and port == str(int(port[:6])) and int(port) <= 65535):
        return f"object {name[:80]!r}: {port[:20]!r} is not a port"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # What looks like a number is an address written in a way that one reader takes for another (0x7f.1, 010.0.0.1).
        last = host.rpartition(".")[2]
        if _HOST_NAME.fullmatch(host) is None or last.isdigit() or last.lower().startswith("0x"):
            return f"object {name[:80]!r}: {host[:60]!r} is neither an address nor a host name"
    return ""


def problem_of_name(name: str) -> str:
    """Why `name` is not name:HOST of letters, digits, hyphens and underscores, as host names and services have them
    (RFC 1123, 2782); empty when it is. Anything else that DNS could carry is no name that a program looks for."""
    host = name.removeprefix(NAME)
    if host == name or _LOOKED_UP.fullmatch(host) is None:
        return f"object {name[:80]!r}: expected name:HOST, in lower case and without a dot at its end"
    return ""


def _problem_of_argv(argv: tuple[str, ...]) -> str:
    if not argv:
        return "argv is empty: a program is started with at least its name"
    if len(argv) > MAX_WORDS or sum(map(len, argv)) > MAX_ARGV_BYTES:
        return f"argv has more than {MAX_WORDS} words or {MAX_ARGV_BYTES} characters"
    return "argv has a NUL byte" if any("\0" in word for word in argv) else ""


def _problem_of_target(target: str) -> str:
    if not target or "\0" in target:
        return "second is empty or has a NUL byte: a symlink has a target"
    return f"second is longer than {PATH_MAX - 1} bytes" if len(os.fsencode(target)) >= PATH_MAX else ""


def _problem_of_details(effect: SideEffect) -> str:
    if len(effect.details) > MAX_DETAILS:
        return f"more than {MAX_DETAILS} details"
    for key, value in effect.details.items():
        if len(key) > MAX_DETAIL or len(value) > MAX_DETAIL:
            return f"the detail {key[:40]!r} is longer than {MAX_DETAIL} characters"
    return ""


def _no_second(effect: SideEffect) -> str:
    return f"{effect.operation} has no second object" if effect.second else ""
