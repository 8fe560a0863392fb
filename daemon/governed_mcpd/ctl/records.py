"""One record of the journal for people: on one line, or every field of it."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from governed_mcpd.ctl.output import command_line, moment, print_fields, safe

Record = Mapping[str, Any]
# On the line of every record already, or not worth a place there.
_COMMON = frozenset({"seq", "time_us", "kind", "sandbox", "subject", "policy_version"})


def one_line(record: Record) -> str:
    """Sequence number, time, sandbox, and what happened."""
    seq, when = record.get("seq", "?"), record.get("time_us", 0)
    clock = time.strftime("%H:%M:%S", time.localtime(when / 1e6)) if isinstance(when, int) else "?"
    sandbox = safe(str(record.get("sandbox", "-")))
    return f"{seq:>7}  {clock}  {sandbox:<10}  {_what(record)}"


def print_record(record: Record, digest: str) -> None:
    """Every field, one per line, nested ones by their path; times and durations readable besides."""
    print_fields([("hash", digest), *_fields(record, "")])


def _what(record: Record) -> str:
    kind = str(record.get("kind", "?"))
    if kind == "effect":
        return _effect(record)
    if kind == "call":
        return _call(record)
    rest = {name: value for name, value in record.items() if name not in _COMMON}
    return safe(f"{kind}  " + ", ".join(f"{name} {value}" for name, value in _fields(rest, ""))).rstrip()


def _effect(record: Record) -> str:
    words = [str(record.get("decision", "?")), _text(record.get("operation")), _text(record.get("object"))]
    details = record.get("details")
    if isinstance(details, Mapping) and "address" in details:
        words.append(f"({_text(details['address'])})")
    elif isinstance(details, Mapping) and "unresolved" in details:
        words.append("(unresolved)")
    if "second" in record:
        words += ["→", _text(record["second"])]
    argv = record.get("argv")
    if isinstance(argv, Mapping) and isinstance(argv.get("words"), list):
        words.append(f"[{command_line(map(str, argv['words']))}]")
    by = f"({_text(record.get('layer'))}/{_text(record.get('rule'))}"
    if "errno" in record:
        by += f", {_text(record['errno'])}"
    if "pause_us" in record:
        by += f", {record['pause_us']} µs"
    if "call" in record:
        by += f", call {_text(record['call'])}"
    if record.get("outside_contract"):
        by += ", outside-contract"
    return " ".join([*words, by + ")"])


def _call(record: Record) -> str:
    arguments = record.get("arguments")
    text = arguments.get("text") if isinstance(arguments, Mapping) else ""
    words = [str(record.get("decision", "?")), "tools/call", _text(f"{record.get('server')}/{record.get('tool')}")]
    by = f"({_text(record.get('layer'))}/{_text(record.get('rule'))}, call {_text(record.get('call'))})"
    return " ".join([*words, _text(text), by])


def _fields(value: Any, path: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, member in value.items():
            yield from _fields(member, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _fields(item, f"{path}[{index}]")
    elif path.endswith("argv.words") and isinstance(value, list):
        yield path, command_line(map(str, value))
    else:
        yield path, _readable(path, value)


def _readable(path: str, value: Any) -> str:
    if path.endswith("time_us") or path.endswith(("since_us", "until_us")):
        return f"{value} ({moment(value)})" if isinstance(value, int) else _text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "-"
    if path.endswith("_ppm") and isinstance(value, int):
        return f"{value} ({value / 1e6:.3f})"
    return _text(value)


def _text(value: Any) -> str:
    return safe("-" if value is None or value == {} else str(value))
