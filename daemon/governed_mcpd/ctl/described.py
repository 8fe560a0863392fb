"""An action that somebody describes, for `explain`: from options, or from a JSON file in the form `--json` prints."""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from governed.v1 import nouns_pb2 as nouns
from governed_mcpd.ctl.output import Exit, Failure
from governed_mcpd.nouns.operation import FILE_CHANGES, Operation

AnyMessage = TypeVar("AnyMessage", bound=Message)
# What these name is the entry itself; a symlink at the end is not followed.
_ENTRY_ITSELF = {
    Operation.FILE_UNLINK,
    Operation.FILE_RMDIR,
    Operation.FILE_RENAME,
    Operation.FILE_LINK,
    Operation.FILE_SYMLINK,
    Operation.FILE_MKDIR,
    Operation.FILE_MKNOD,
}
_PATHS = FILE_CHANGES | {Operation.FILE_READ, Operation.PROCESS_EXEC}
_MAX_FILE = 8 << 20


def effect(name: str, target: str, second: str, argv: list[str]) -> nouns.SideEffect:
    """A side effect from options. Paths become canonical as they are resolved here and now."""
    try:
        operation = Operation(name)
    except ValueError:
        raise _wrong(f"--operation {name!r}: expected one of {', '.join(Operation)}") from None
    if not target:
        raise _wrong(f"--object is missing: what {operation} acts on")
    if operation in _PATHS:
        target = _canonical(target, follow=operation not in _ENTRY_ITSELF)
        if second and operation is not Operation.FILE_SYMLINK:  # there it is the text of the link
            second = _canonical(second, follow=False)
    return nouns.SideEffect(
        operation=operation.value,
        object=os.fsencode(target),
        second=os.fsencode(second),
        argv=[os.fsencode(word) for word in argv],
    )


def call(server: str, tool: str, arguments: str) -> nouns.ToolCall:
    """A tool call from options; its arguments in canonical JSON."""
    from governed_mcpd.journal.canonical import CanonicalError, canonical  # noqa: PLC0415 - only tool calls need it

    try:
        value = json.loads(arguments or "{}")
    except ValueError as error:
        raise _wrong(f"--arguments is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _wrong("--arguments: expected a JSON object")
    try:
        return nouns.ToolCall(server=server, tool=tool, arguments=canonical(value))
    except CanonicalError:  # it has floats: the gate's schema layer says what it makes of them
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return nouns.ToolCall(server=server, tool=tool, arguments=text.encode())


def from_file(path: Path) -> nouns.Action:
    """The action that a JSON file describes (`-` is stdin)."""
    try:
        with open(0 if str(path) == "-" else path, "rb", closefd=str(path) != "-") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise _wrong(f"{path}: {error.strerror}") from None
    if len(content) > _MAX_FILE:
        raise _wrong(f"{path}: more than {_MAX_FILE} bytes")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"{path}: not JSON: {error}") from None
    return read(value, nouns.Action, str(path))


def read(value: object, kind: type[AnyMessage], where: str) -> AnyMessage:
    """The message of which `value` is the plain form (output.plain). Unknown members and wrong types are refused."""
    message = kind()
    if not isinstance(value, Mapping):
        raise _wrong(f"{where}: expected an object, the members of a {kind.__name__}")
    fields: Mapping[str, Any] = kind.DESCRIPTOR.fields_by_name
    for name, member in value.items():
        at = f"{where}: {name}"
        field = fields.get(name)
        if field is None:
            raise _wrong(f"{at}: no such member; expected one of {', '.join(fields)}")
        if member is None:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if not isinstance(member, Mapping) or not all(isinstance(text, str) for text in member.values()):
                raise _wrong(f"{at}: expected an object with text members")
            getattr(message, name).update(member)
        elif field.is_repeated:
            if not isinstance(member, list):
                raise _wrong(f"{at}: expected an array")
            items = [_value(item, field, f"{at}[{index}]") for index, item in enumerate(member)]
            getattr(message, name).extend(items)
        elif field.type == field.TYPE_MESSAGE:
            getattr(message, name).CopyFrom(_value(member, field, at))
        else:
            _set(message, name, _value(member, field, at), at)
    return message


def _set(message: Message, name: str, value: object, at: str) -> None:
    try:
        setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise _wrong(f"{at}: {error}") from None


def _value(value: Any, field: Any, at: str) -> Any:
    if field.type == field.TYPE_MESSAGE:
        return read(value, field.message_type._concrete_class, at)
    if field.type == field.TYPE_BYTES:
        return _bytes(value, at)
    if field.type == field.TYPE_ENUM:
        return _number(value, field, at)
    if field.type == field.TYPE_STRING and not isinstance(value, str):
        raise _wrong(f"{at}: expected text")
    if field.type != field.TYPE_BOOL and isinstance(value, bool):
        raise _wrong(f"{at}: {value} is not expected here")
    return value


def _number(value: object, field: Any, at: str) -> int:
    prefix = field.enum_type.name.upper() + "_"
    words = {entry.name.removeprefix(prefix).replace("_", "").lower(): entry.number for entry in field.enum_type.values}
    word = value.replace("_", "").replace("-", "").lower() if isinstance(value, str) else ""
    if word not in words:
        raise _wrong(f"{at} is {value!r}: expected one of {', '.join(words)}")
    return int(words[word])


def _bytes(value: object, at: str) -> bytes:
    if isinstance(value, str):
        return os.fsencode(value)
    if isinstance(value, Mapping) and set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            pass
    raise _wrong(f'{at}: expected text, or {{"b64": "…"}} for bytes that are not UTF-8')


def _canonical(path: str, *, follow: bool) -> str:
    if follow:
        return os.path.realpath(path)
    directory, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(directory), name)


def _wrong(message: str) -> Failure:
    return Failure("usage", message, Exit.USAGE)
