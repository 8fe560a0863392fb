"""What the arguments of a tool call point at: paths, hosts, command lines.

By their letters alone, before anything happens; what really happens pauses and is judged again, on the kernel's names.
"""

import os.path
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from governed_mcpd.gate.constitution import known, programs
from governed_mcpd.gate.constitution.endpoints import host_endpoint
from governed_mcpd.gate.constitution.places import beneath, environment_file, meaning
from governed_mcpd.gate.constitution.verbs import Around
from governed_mcpd.nouns.action import Context

_LONGEST_PATH = 4096
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://", re.ASCII)
_PATH_KEYS = known.words("""
    path paths file files filename filepath file_path dir directory directories folder source destination src dst dest
    target_file old_path new_path repo_path repository root cwd workdir working_directory output output_path input_path
    """)
_HOST_KEYS = known.words("url uri href endpoint host hostname address server_url base_url webhook callback")
_COMMAND_KEYS = known.words(
    "command cmd script shell commandline command_line shell_command bash args argv exec run code"
)
PATH_FACTS = (
    "credential",
    "persistence",
    "gitHooks",
    "gitConfig",
    "governed",
    "oversight",
    "device",
    "kernel",
    "processInside",
)
FACTS = (*PATH_FACTS, *programs.FACTS, "outside", "private", "metadata")


def facts(arguments: dict[str, Any], context: Context) -> dict[str, bool]:
    """Every fact of FACTS about a call's arguments."""
    found = dict.fromkeys(FACTS, False)
    around = Around(context.directories, context.home)
    for key, text in _strings(arguments, ""):
        found["secret"] = found["secret"] or programs.secret_in(text)
        name = key.lower().replace("-", "_")
        if name in _COMMAND_KEYS:
            _command(found, text, around)
        if text[:7].lower() == "file://":
            _path(found, unquote(urlsplit(text).path), context, around)
        elif _URL.match(text):
            _host(found, text)
        elif name in _HOST_KEYS:
            _host(found, f"//{text}")
        elif name in _PATH_KEYS or text.startswith(("/", "~", "./", "../")):
            _path(found, text, context, around)
    for words in _argument_lists(arguments):
        _command(found, " ".join(words), around)
    return found


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every string, with the name of the member that holds it (a list's members have the list's)."""
    pending = [(key, value)]
    while pending:
        name, item = pending.pop()
        if isinstance(item, str):
            yield name, item
        elif isinstance(item, list):
            pending += [(name, member) for member in item]
        elif isinstance(item, dict):
            pending += item.items()


def _argument_lists(value: dict[str, Any]) -> Iterator[list[str]]:
    """`{"command": "rm", "args": ["-rf", "/"]}`: a command line in pieces."""
    for key in ("args", "argv", "command", "cmd"):
        words = value.get(key)
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            program = value.get("command")
            yield [program, *words] if isinstance(program, str) else words


def _command(found: dict[str, bool], text: str, around: Around) -> None:
    command = programs.of_text(text, around)
    for fact in programs.FACTS:
        found[fact] = found[fact] or getattr(command, fact)


def _host(found: dict[str, bool], url: str) -> None:
    try:
        host = urlsplit(url).hostname
        port = urlsplit(url).port or 0
    except ValueError:
        found["private"] = True  # a URL that cannot be read leads nobody knows where
        return
    if not host:
        return
    endpoint = host_endpoint("tcp", unquote(host), port)
    found["private"] = found["private"] or endpoint.private
    found["metadata"] = found["metadata"] or endpoint.metadata


def _path(found: dict[str, bool], text: str, context: Context, around: Around) -> None:
    if len(text) > _LONGEST_PATH or "\n" in text or "\0" in text:
        return  # no path that the kernel would take: text
    if text == "~":
        text = context.home or "/"
    path = around.absolute(text)
    read = meaning(path, context.home)
    for fact in PATH_FACTS:
        found[fact] = found[fact] or getattr(read, fact)
    allowed = (*context.directories, context.scratch)
    if not beneath(path, allowed):
        found["outside"] = True
        found["credential"] = found["credential"] or environment_file(os.path.basename(path))
