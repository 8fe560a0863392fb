"""An Action as requests to Cedar: action, resource and context, one request per object."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from governed_mcpd.gate.constitution import arguments, places, programs
from governed_mcpd.gate.constitution.endpoints import Endpoint, endpoint, host_endpoint
from governed_mcpd.gate.constitution.known import words
from governed_mcpd.gate.constitution.places import NotCanonical, beneath, environment_file, harmless, meaning
from governed_mcpd.gate.constitution.verbs import Around
from governed_mcpd.gate.reading import Reading
from governed_mcpd.gate.text import lookups
from governed_mcpd.nouns.action import Context, SideEffect, ToolCall
from governed_mcpd.nouns.operation import FILE_CHANGES, NETWORK, Operation
from governed_mcpd.nouns.pattern import NAME

_MAKES = frozenset((Operation.FILE_CREATE, Operation.FILE_MKDIR, Operation.FILE_SYMLINK, Operation.FILE_MKNOD))
_REMOVES = frozenset((Operation.FILE_UNLINK, Operation.FILE_RMDIR))
_TAKES_AWAY = frozenset((Operation.FILE_RMDIR, Operation.FILE_RENAME, Operation.FILE_SYMLINK))
_GIT_PARTS = ("refs", "objects", "logs")
_MOVES = frozenset((Operation.FILE_RENAME, Operation.FILE_LINK))
# A task's directories that are the machine's own: being started there gives no right to all of it.
_NO_TASK_DIRECTORY = words("""
    / /home /etc /usr /var /boot /dev /proc /sys /run /bin /sbin /lib /lib64 /opt /srv /mnt /media /tmp
    """)
_SPECIAL = (0o020000, 0o060000)  # S_IFCHR, S_IFBLK: inode(7)
_FORMAT = 0o170000
_SET_ID = 0o6000


@dataclass(frozen=True, slots=True)
class Request:
    """One question to Cedar. `context` is complete for the action's type in the schema."""

    action: str
    resource_type: str
    resource_id: str
    context: Mapping[str, Any]


def requests(reading: Reading, own: frozenset[str] = frozenset()) -> list[Request]:
    """All of them have to be allowed. Raises NotCanonical or MalformedArguments, which are refusals."""
    what, context = reading.action.what, reading.action.context
    if isinstance(what, ToolCall):
        return [_call(what, reading)]
    if what.operation is Operation.PROCESS_EXEC:
        return [_exec(what, context)]
    if what.operation is Operation.PROCESS_SIGNAL:
        return [_signal(what, context)]
    if what.operation in NETWORK:
        return [_net(what, context, own)]
    if what.operation is Operation.NET_RESOLVE:
        return [_lookup(what, context)]
    found = [_file(what, what.object, context, own, second=False)]
    if what.operation in _MOVES:
        found.append(_file(what, what.second, context, own, second=True))
    return found


def text(name: str) -> str:
    """JSON has no place for bytes that are not UTF-8: they are shown by their escapes."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _around(context: Context) -> dict[str, Any]:
    return {
        "task": bool(context.task),
        "untrusted": bool(context.untrusted),
        "calls": [f"{call.server}/{call.tool}" for call in context.calls],
    }


def _directories(context: Context) -> list[str]:
    return [directory for directory in context.directories if directory not in _NO_TASK_DIRECTORY]


def _file(effect: SideEffect, path: str, context: Context, own: frozenset[str], *, second: bool) -> Request:
    places.check_canonical(path)
    operation, details = effect.operation, effect.details
    read = meaning(path, context.home, own)
    directory, _, name = path.rpartition("/")
    in_directories = beneath(path, _directories(context))
    in_scratch = beneath(path, (context.scratch,))
    credential = read.credential or (environment_file(name) and not in_directories)
    if operation is Operation.FILE_SYMLINK:
        credential = credential or _leads_to_credential(effect, context)
    git_hooks = _git_hooks(operation, name, hooks=read.gitHooks)
    facts = _around(context)
    facts |= {
        "path": text(path),
        "directory": text(directory) or "/",
        "name": text(name),
        "extension": _extension(text(name)),
        "second": second,
        "inDirectories": in_directories,
        "inScratch": in_scratch,
        "inHome": context.home != "/" and beneath(path, (context.home,)),
        "credential": credential,
        "persistence": read.persistence and not read.gitHooks,
        "gitHooks": git_hooks,
        "gitConfig": read.gitConfig and not _new_repository(path, directory, effect, context),
        "gitParts": operation in _TAKES_AWAY and directory.lower().endswith(".git") and name.lower() in _GIT_PARTS,
        "governed": read.governed and not in_scratch,
        "oversight": read.oversight,
        "device": read.device or _makes_device(effect),
        "kernel": read.kernel,
        "harmless": harmless(path),
        "process": read.process,
        "processInside": read.processInside,
        "ownProcess": read.process and details.get("process") == "inside",
        "ownSetting": read.processSetting,
        "setsId": _sets_id(effect),
        "removals": _removals(effect, context) if operation in _REMOVES else 0,
    }
    return Request(operation.value, "File", facts["path"], facts)


def _extension(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return dot + extension.lower() if stem else ""


def _git_hooks(operation: Operation, name: str, *, hooks: bool) -> bool:
    """The bare directory may be made (git init does); a directory moved to where hooks are brings hooks with it."""
    if operation in _MOVES or operation is Operation.FILE_SYMLINK:
        return hooks or name.lower() == ".git"
    if hooks and name.lower() == "hooks":
        return operation not in (Operation.FILE_MKDIR, Operation.FILE_RMDIR)
    return hooks


def _leads_to_credential(effect: SideEffect, context: Context) -> bool:
    around = Around((effect.object.rpartition("/")[0] or "/",), context.home)
    return meaning(around.absolute(effect.second), context.home).credential


def _makes_device(effect: SideEffect) -> bool:
    if effect.operation is not Operation.FILE_MKNOD:
        return False
    mode = _mode(effect)
    return mode is None or mode & _FORMAT in _SPECIAL


def _sets_id(effect: SideEffect) -> bool:
    if effect.operation is Operation.FILE_XATTR:
        attribute = effect.details.get("attribute", "security.")
        return attribute.lower().startswith(("security.", "trusted."))
    if effect.operation is Operation.FILE_CHMOD:
        mode = _mode(effect)
        return mode is None or bool(mode & _SET_ID)
    if effect.operation in (Operation.FILE_CREATE, Operation.FILE_MKNOD) and "mode" in effect.details:
        mode = _mode(effect)
        return mode is None or bool(mode & _SET_ID)
    return False


def _mode(effect: SideEffect) -> int | None:
    try:
        return int(effect.details["mode"], 8)
    except (KeyError, ValueError):
        return None  # what is not known counts as the worst


def _new_repository(path: str, directory: str, effect: SideEffect, context: Context) -> bool:
    """Whether this sandbox makes the repository itself just now, as git init and git clone do.

    What is seen of it: the repository's directory made, or one of its parts, which cannot be made where it stands
    (and taking one away is asked about); or these same settings written, which was allowed for that or by a person. The
    daemon remembers longer than `earlier` reaches, and may say so.
    """
    if effect.details.get("parent") == "made":
        return True
    parts = {directory, *(f"{directory}/{part}" for part in _GIT_PARTS)}
    for earlier in context.earlier:
        if earlier.operation is Operation.FILE_MKDIR:
            if earlier.object in parts:
                return True
        elif earlier.operation in FILE_CHANGES and path in (earlier.object, earlier.second):
            return True
    return False


def _removals(effect: SideEffect, context: Context) -> int:
    """How many different things were removed lately that this sandbox had not made itself before.

    As the daemon has counted; where it has not (explain), as far as `earlier` reaches. The daemon remembers what was
    made for longer: by `earlier` alone, lock files and objects of one long git command look like somebody else's.
    """
    counted = effect.details.get("removals", "")
    if counted.isascii() and counted.isdigit() and len(counted) < 10:
        return int(counted)
    made: set[str] = set()
    removed: set[str] = set()
    for earlier in context.earlier:
        if earlier.operation in _MAKES:
            made.add(earlier.object)
        elif earlier.operation in _MOVES:
            made.add(earlier.second)
        elif earlier.operation in _REMOVES and earlier.object not in made:
            removed.add(earlier.object)
    return sum(not beneath(name, (context.scratch,)) for name in removed)


def _exec(effect: SideEffect, context: Context) -> Request:
    places.check_canonical(effect.object)
    directory, _, name = effect.object.rpartition("/")
    argv = [text(word) for word in effect.argv]
    facts = _around(context)
    facts |= {
        "path": text(effect.object),
        "directory": text(directory) or "/",
        "name": text(name),
        "words": argv,
        "command": " ".join(argv),
        "inDirectories": beneath(effect.object, _directories(context)),
        "inScratch": beneath(effect.object, (context.scratch,)),
        "inHome": context.home != "/" and beneath(effect.object, (context.home,)),
    }
    facts |= asdict(programs.of_exec(effect.object, effect.argv, Around(context.directories, context.home)))
    return Request(effect.operation.value, "File", facts["path"], facts)


def _net(effect: SideEffect, context: Context, own: frozenset[str]) -> Request:
    found = endpoint(effect.object)
    address = _address(effect, found)
    unix = found.protocol == "unix"
    path = found.host if unix and found.host.startswith("/") else ""
    if path:
        places.check_canonical(path)
    in_scratch = path != "" and beneath(path, (context.scratch,))
    facts = _around(context)
    facts |= {
        "protocol": found.protocol,
        "host": text(found.host),
        "port": found.port,
        "address": address.host if address.protocol != "unix" else "",
        "names": effect.details.get("names", "").split(),
        "resolved": found is not address or not effect.details.get("unresolved"),
        # What counts is where it leads; whoever answers for a name decides what that says.
        "private": address.private,
        "loopback": address.loopback,
        "metadata": found.metadata or address.metadata,
        "unspecified": address.unspecified,
        "ownListener": _listens(address, context),
        "broker": found.broker,
        "credential": found.credential or (path != "" and meaning(path, context.home, own).credential),
        "plain": found.plain,
        # Scratch may lie in governed-mcpd's runtime directory, and is the sandbox's all the same.
        "governed": unix and not in_scratch and _governed_socket(found.host, path, own),
        "inDirectories": path != "" and beneath(path, _directories(context)),
        "inScratch": in_scratch,
    }
    if unix:
        return Request(effect.operation.value, "Socket", facts["host"], facts)
    return Request(effect.operation.value, "Endpoint", text(effect.object), facts)


def _governed_socket(host: str, path: str, own: frozenset[str]) -> bool:
    if path:
        return meaning(path, "", own).governed
    return "governed-" in host.lower()


def _address(effect: SideEffect, found: Endpoint) -> Endpoint:
    """The endpoint by its address, where the daemon says to which one a name led."""
    known = effect.details.get("address", "")
    return host_endpoint(found.protocol, known, found.port) if known else found


def _listens(found: Endpoint, context: Context) -> bool:
    """By listen(2) only: a bind that is approved may still fail because another program has that port."""
    host = f"[{found.host}]" if ":" in found.host and found.protocol != "unix" else found.host
    name = f"unix:{found.host}" if found.protocol == "unix" else f"{found.protocol}:{host}:{found.port}"
    return any(earlier.operation is Operation.NET_LISTEN and earlier.object == name for earlier in context.earlier)


def _lookup(effect: SideEffect, context: Context) -> Request:
    """A name that is about to be asked for: told to name servers, and to whoever answers for its domain."""
    name = effect.object.removeprefix(NAME)
    if name == effect.object:
        raise NotCanonical(f"{effect.object[:200]!r} is not name:HOST")
    found = host_endpoint("name", name, 0)
    facts = _around(context)
    facts |= {
        "name": text(name),
        "type": effect.details.get("type", "A"),
        "local": found.private,
        "metadata": found.metadata,
        "inTask": lookups.spoken_of(name, context.task),
        "carries": lookups.carries(name),
        "beneath": _number(effect.details.get("beneath", "")),
    }
    return Request(effect.operation.value, "Name", facts["name"], facts)


def _number(digits: str) -> int:
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0


def _signal(effect: SideEffect, context: Context) -> Request:
    kind, _, number = effect.object.partition(":")
    try:
        pid = int(number)
    except ValueError:
        pid = 0
    if kind != "process" or pid == 0 or str(pid) != number or abs(pid) >> 31:
        raise NotCanonical(f"{effect.object[:200]!r} is not process:PID")
    signal = effect.details.get("signal", "0")
    facts = _around(context)
    facts |= {"pid": pid, "signal": int(signal) if signal.isascii() and signal.isdigit() and len(signal) < 4 else 0}
    return Request(effect.operation.value, "Process", effect.object, facts)


def _call(call: ToolCall, reading: Reading) -> Request:
    facts = _around(reading.action.context)
    facts |= {"server": call.server, "tool": call.tool}
    facts |= arguments.facts(reading.arguments, reading.action.context)
    return Request("tool.call", "Tool", f"{call.server}/{call.tool}", facts)
