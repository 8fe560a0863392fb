"""What governedctl writes: tables and text for people, JSON for programs, and errors for both.

Names of files, arguments, tasks and reasons come from inside sandboxes. On a terminal they could move the cursor,
retitle the window, or turn the reading direction (CVE-2021-42574) to make a refusal look like something else: `safe`
shows every such character as an escape, and no text is ever read as rich markup.
"""

import base64
import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, NoReturn

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

# A column of a framed table is folded down to this width; where that is not enough, rows become blocks.
_FOLDED = 18


class Exit(IntEnum):
    """Exit codes, as `governedctl --help` lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    FORBIDDEN = 4
    INTERRUPTED = 130


class Failure(Exception):
    """Ends the command. `code` is for programs, `message` for people, `status` for the shell."""

    def __init__(self, code: str, message: str, status: Exit = Exit.FAILED, details: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.details = details


def safe(text: str | bytes, *, lines: bool = False) -> str:
    """`text` with everything that is not printable as an escape; `lines` keeps line feeds and tabs.

    Bytes that are not UTF-8 (also those in surrogateescape form) become \\xNN.
    """
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogateescape" if _only_escaped_bytes(text) else "backslashreplace")
    decoded = text.decode("utf-8", "backslashreplace")
    if decoded.isascii() and decoded.isprintable():
        return decoded
    return "".join(c if _harmless(c) or (lines and c in "\n\t") else _escape(c) for c in decoded)


def text_or_base64(data: bytes) -> str | dict[str, str]:
    """Bytes in JSON: text when they are UTF-8, else {"b64": …}, as in the journal."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(data).decode()}


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON can say it: every field by its name, enum values as words, absent messages as null."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def print_json(value: Any) -> None:
    """One object on one line. Escaped to ASCII: what is shown on a terminal cannot act on it."""
    print(json.dumps(value, separators=(",", ":")), flush=True)


def print_text(text: str | bytes = "") -> None:
    """Lines of text on stdout, made safe."""
    print(safe(text, lines=True), flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | bytes]], *, empty: str = "") -> None:
    """A table: framed on a terminal, aligned columns elsewhere. `empty` is said when there are no rows."""
    cells = [[safe(cell) for cell in row] for row in rows]
    if not cells and empty:
        print(empty)
    elif sys.stdout.isatty():
        _rich_table(columns, cells)
    else:
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in ([name.upper() for name in columns], *cells):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


def print_fields(fields: Iterable[tuple[str, str | bytes]], indent: str = "") -> None:
    """Names and values, one per line, the values aligned."""
    shown = [(name, safe(value)) for name, value in fields]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{indent}{name.ljust(width)}  {value}".rstrip())
    sys.stdout.flush()


def fail(failure: Failure, *, as_json: bool) -> NoReturn:
    """Writes the error to stderr and ends the program."""
    if as_json:
        error: dict[str, Any] = {"code": failure.code, "message": failure.message}
        if failure.details is not None:
            error["details"] = failure.details
        print(json.dumps({"error": error}, separators=(",", ":")), file=sys.stderr)
    else:
        print(f"governedctl: {safe(failure.message, lines=True)}", file=sys.stderr)
    sys.exit(failure.status)


def moment(microseconds: int) -> str:
    """A time since the epoch, local and to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(microseconds // 1_000_000)) if microseconds else "-"


def span(seconds: float) -> str:
    """A duration in its one or two largest units."""
    whole = max(0, int(seconds))
    for unit, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= unit:
            return f"{whole // unit}{name} {whole % unit // below}{below_name}"
    return f"{whole}s"


def duration(nanoseconds: int) -> str:
    """A short time, in the unit that suits it."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1000:.1f} µs"
    return f"{nanoseconds / 1_000_000:.1f} ms"


def command_line(argv: Iterable[str | bytes]) -> str:
    """An argument vector on one line, quoted as a shell would need it, made safe."""
    import shlex  # noqa: PLC0415 - few commands need it

    return " ".join(shlex.quote(safe(word)) for word in argv)


def _rich_table(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - the launcher and programs do without
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    console = Console(markup=False, emoji=False, highlight=False)
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    least = sum(min(width, _FOLDED) + 3 for width in widths)
    if least > console.width:
        for row in cells:
            print_fields(zip(columns, row, strict=True))
            print()
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, overflow="fold", min_width=min(width, _FOLDED))
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))  # Text: never markup
    console.print(table)


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_value(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return plain(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return text_or_base64(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _enum_word(field, value)
    return value


def _enum_word(field: FieldDescriptor, number: int) -> str:
    """`DECISION_ALLOW` as "allow": without the name of the enum, which prefixes every value."""
    enum = field.enum_type
    known = enum.values_by_number.get(number) if enum is not None else None
    if enum is None or known is None:
        return f"unknown-{number}"
    word = known.name.removeprefix(enum.name.upper() + "_")
    if enum.name == "Tier":  # as policy documents write it
        return word.title().replace("_", "")
    return word.lower().replace("_", "-")


def _only_escaped_bytes(text: str) -> bool:
    """Whether the surrogates in `text` are all those of os.fsdecode."""
    return all("\udc80" <= c <= "\udcff" for c in text if "\ud800" <= c <= "\udfff")


def _harmless(c: str) -> bool:
    return c == " " or (c.isprintable() and unicodedata.category(c) not in ("Zs", "Zl", "Zp", "Cf"))


def _escape(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")
