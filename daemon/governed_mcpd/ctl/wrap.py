"""`mcp wrap` and `unwrap`: puts the gateway into the configuration of an MCP client, and takes it out again.

Desktop clients and IDEs keep their servers in a JSON object `mcpServers` (or `servers`): name → command, args, env. The
command becomes `governedctl mcp … -- COMMAND`. The file as it was is kept beside it, byte for byte, and comes back.
"""

import difflib
import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from governed_mcpd.ctl.output import Exit, Failure, print_json, print_text
from governed_mcpd.ctl.session import Json

BACKUP = ".before-governed"
PROGRAM = "governedctl"
_SECTIONS = ("mcpServers", "servers")
_MOST = 8 << 20

app = typer.Typer(
    help="Stand between an MCP client and its server: governedctl mcp [OPTION]... -- COMMAND (governedctl mcp --help).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The client's configuration, with `mcpServers` in it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the difference, and change nothing.")]


@app.command()
def wrap(
    file: File,
    profile: Annotated[str, typer.Option(metavar="NAME", help="The profile that the servers run under.")] = "",
    agent: Annotated[str, typer.Option(metavar="NAME", help="The agent that calls.")] = "",
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="This server (repeatable).")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Put the gateway in front of every server of a client's configuration; show the difference, keep a backup."""
    before, mode = _content(file)
    value = _parsed(file, before)
    changed, left = _wrap(file, value, only or [], _options(profile, agent))
    after = _written(value, before) if changed else before
    _show(file, before, after, as_json, changed, left)
    if not changed or dry_run:
        return
    backup = Path(str(file) + BACKUP)
    if not backup.exists():  # wrapped again, for a server that was added: what undoes it is the first
        _write(backup, before, mode)
    _write(file, after, mode)


@app.command()
def unwrap(file: File, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Take the gateway out again. A file that was not edited since comes back exactly as it was."""
    before, mode = _content(file)
    backup = Path(str(file) + BACKUP)
    value = _parsed(file, before)
    names = _unwrap(value)
    kept = _content(backup)[0] if backup.exists() else b""
    # The backup is what it was, if wrapping it gives what is there; else somebody edited the file: only our words go.
    after = kept if kept and _same(_parsed(backup, kept), value) else _written(value, before) if names else before
    _show(file, before, after, as_json, names, [])
    if dry_run:
        return
    if after != before:
        _write(file, after, mode)
    backup.unlink(missing_ok=True)


def _options(profile: str, agent: str) -> list[str]:
    found: list[str] = []
    for name, text in (("--profile", profile), ("--agent", agent)):
        if text:
            found += [name, text]
    return found


def _servers(value: Any) -> dict[str, Any]:
    """The servers of a configuration, in whichever member this client keeps them."""
    found = next((value[name] for name in _SECTIONS if isinstance(value.get(name), dict)), None)
    if found is None:
        raise Failure("no-servers", f"there is no object {' or '.join(_SECTIONS)} in it", Exit.USAGE)
    return dict(found)


def _wrap(file: Path, value: Any, only: list[str], options: list[str]) -> tuple[list[str], list[str]]:
    """Changes `value`; the names of the servers that were wrapped, and of those that were left and why."""
    servers = _servers(value)
    missing = [name for name in only if name not in servers]
    if missing:
        raise Failure("unknown-server", f"{file} has no server {', '.join(missing)}", Exit.USAGE)
    changed: list[str] = []
    left: list[str] = []
    for name, server in servers.items():
        if only and name not in only:
            continue
        command = server.get("command") if isinstance(server, dict) else None
        args = server.get("args", []) if isinstance(server, dict) else None
        if not isinstance(command, str) or not isinstance(args, list):
            left.append(f"{name}: no command (a remote server: governedctl mcp --listen … --upstream URL)")
        elif _is_wrapped(command, args):
            left.append(f"{name}: wrapped already")
        else:
            server["command"], server["args"] = _program(), ["mcp", *options, "--", command, *args]
            changed.append(name)
    return changed, left


def _unwrap(value: Any) -> list[str]:
    names: list[str] = []
    for name, server in _servers(value).items():
        if not isinstance(server, dict) or not _is_wrapped(server.get("command"), server.get("args")):
            continue
        words = server["args"][server["args"].index("--") + 1 :]
        server["command"] = words[0]
        server["args"] = words[1:]
        names.append(name)
    return names


def _same(one: Any, other: Any) -> bool:
    """Whether two configurations say the same. No arguments and an empty list of them do."""

    def told(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: told(member) for name, member in value.items() if not (name == "args" and member == [])}

    return bool(told(one) == told(other))


def _is_wrapped(command: Any, args: Any) -> bool:
    return (
        isinstance(command, str)
        and os.path.basename(command) == PROGRAM
        and isinstance(args, list)
        and args[:1] == ["mcp"]
        and "--" in args[:-1]
    )


def _program() -> str:
    """How the client finds this program: by name where the search path has it, else by its place."""
    return PROGRAM if shutil.which(PROGRAM) else os.path.abspath(os.path.join(os.path.dirname(sys.executable), PROGRAM))


def _content(file: Path) -> tuple[bytes, int]:
    """What the file holds, and its mode. A link is followed: the file that it names is changed."""
    try:
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Failure("no-file", f"{file} is no regular file", Exit.USAGE)
            content = opened.read(_MOST + 1)
    except OSError as error:
        raise Failure("no-file", f"{file}: {error.strerror}", Exit.USAGE) from None
    if len(content) > _MOST:
        raise Failure("no-file", f"{file} has more than {_MOST} bytes", Exit.USAGE)
    return content, stat.S_IMODE(status.st_mode)


def _parsed(file: Path, content: bytes) -> Any:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Failure("bad-configuration", f"{file} is not JSON: {error}", Exit.USAGE) from None
    if not isinstance(value, dict):
        raise Failure("bad-configuration", f"{file}: expected an object", Exit.USAGE)
    return value


def _written(value: Any, before: bytes) -> bytes:
    """The configuration as text, indented as it was."""
    text = before.decode("utf-8-sig", "replace")
    indent = next((len(line) - len(line.lstrip()) for line in text.splitlines() if line[:1] in (" ", "\t")), 2)
    tab = "\t" if "\n\t" in text else None
    return (json.dumps(value, indent=tab or indent, ensure_ascii=False) + "\n").encode()


def _write(file: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, with the mode that it had: such files hold credentials."""
    target = Path(os.path.realpath(file))
    new = target.with_name(target.name + ".new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.chmod(new, mode)
        os.rename(new, target)
    except OSError as error:
        raise Failure("not-written", f"{target}: {error.strerror}") from None


def _show(file: Path, before: bytes, after: bytes, as_json: bool, changed: list[str], left: list[str]) -> None:
    if as_json:
        print_json({"file": str(file), "changed": changed, "left": left})
        return
    old, new = (text.decode("utf-8", "replace").splitlines() for text in (before, after))
    for line in difflib.unified_diff(old, new, str(file), str(file), lineterm=""):
        print_text(line)
    for name in left:
        print_text(f"left as it is: {name}")
    if before == after:
        print_text(f"{file}: nothing to change")
