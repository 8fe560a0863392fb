"""What a canonical path means: credentials, persistence, governed-mcpd's own files, devices, the kernel, processes.

Names are taken as the daemon resolved them: absolute, every symlink followed, nothing of `.` or `..` in them. A name
that is not so is refused (NotCanonical), never repaired: two repairs may differ.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from governed_mcpd.gate.constitution import known

_OTHER_HOME = re.compile(r"(/root|/home/[^/]+|/var/home/[^/]+|/export/home/[^/]+)(?:/(.*))?\Z", re.DOTALL)
_PROCESS = re.compile(r"/proc/(?:\d+|self|thread-self)(?:/task/\d+)?(?:/(.*))?\Z", re.DOTALL)
_NOT_CANONICAL = re.compile(r"//|/\.{1,2}(?:/|\Z)|\0")
_PACKAGE = str(Path(__file__).resolve().parents[2])
# The three programs of this very installation, wherever it is.
_PROGRAMS = frozenset(str(Path(sys.prefix) / "bin" / name).lower() for name in known.GOVERNED_NAMES)


class NotCanonical(ValueError):
    """A name that the daemon's resolver never produces."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a path is, whoever opens it and for what. Where a field has a condition, its sentence says so."""

    credential: bool
    persistence: bool
    gitHooks: bool  # noqa: N815 (the names are those of the Cedar schema)
    gitConfig: bool  # noqa: N815
    governed: bool
    oversight: bool
    device: bool
    kernel: bool
    process: bool
    processInside: bool  # noqa: N815
    processSetting: bool  # noqa: N815


def check_canonical(path: str) -> None:
    """Raises NotCanonical with what is wrong about the path."""
    if not path.startswith("/"):
        raise NotCanonical(f"{path[:200]!r} is not an absolute path")
    if len(path) > 1 and path.endswith("/"):
        raise NotCanonical(f"{path[:200]!r} ends in a slash")
    if _NOT_CANONICAL.search(path):
        raise NotCanonical(f"{path[:200]!r} has //, /./, /../ or a NUL in it")


def beneath(path: str, directories: Iterable[str]) -> bool:
    """Whether the path is one of the directories or lies in one. Exact: letters of another case are another name."""
    return any(
        directory and (path == directory or path.startswith(directory.rstrip("/") + "/")) for directory in directories
    )


@lru_cache(maxsize=4096)
def meaning(path: str, home: str = "", own: frozenset[str] = frozenset()) -> Meaning:
    """Reads a canonical path. `home` is the user's; `own` are further trees of governed-mcpd, in lower case."""
    lower = path.lower()
    above = _above(lower)
    at_home = _home_relative(lower, home.lower())
    home_above = _above(at_home) if at_home else frozenset()
    name = lower.rpartition("/")[2]
    git_hooks = _git_hooks(lower)
    process = _PROCESS.match(lower)
    inside = process[1] or "" if process else ""
    return Meaning(
        credential=_credential(lower, name, above, home_above),
        persistence=git_hooks
        or not above.isdisjoint(known.PERSISTENCE_TREES)
        or not home_above.isdisjoint(known.PERSISTENCE_HOME_TREES),
        gitHooks=git_hooks,
        gitConfig=_git_config(lower, name),
        governed=_governed(path, lower, name, above, own),
        oversight=not above.isdisjoint(known.OVERSIGHT_TREES) or not home_above.isdisjoint(known.OVERSIGHT_HOME_TREES),
        device=_device(lower),
        kernel=not above.isdisjoint(known.KERNEL_TREES),
        process=process is not None,
        processInside=inside in known.PROCESS_INSIDES or inside.startswith(known.PROCESS_INSIDE_TREES),
        processSetting=inside in known.OWN_PROCESS_SETTINGS,
    )


def environment_file(name: str) -> bool:
    """Whether a file's name is that of a project's settings with secrets (`.env`, `.env.production`; not samples)."""
    lower = name.lower()
    if lower != known.ENVIRONMENT_NAMES[0] and not lower.startswith(known.ENVIRONMENT_NAMES[1]):
        return False
    return not lower.endswith(known.ENVIRONMENT_SAMPLES)


def _above(path: str) -> frozenset[str]:
    """The path and every directory above it, down from the first component."""
    found = {path}
    end = path.rfind("/")
    while end > 0:
        path = path[:end]
        found.add(path)
        end = path.rfind("/")
    return frozenset(found)


def _home_relative(lower: str, home: str) -> str:
    if home not in ("", "/") and lower.startswith(home + "/"):
        return lower[len(home) + 1 :]
    match = _OTHER_HOME.match(lower)
    return (match[2] or "") if match else ""


def _credential(lower: str, name: str, above: frozenset[str], home_above: frozenset[str]) -> bool:
    if name in known.CREDENTIAL_NAMES or name.endswith(known.CREDENTIAL_ENDINGS):
        return True
    if name.startswith("ssh_host_") and not name.endswith(".pub"):
        return True
    if not above.isdisjoint(known.CREDENTIAL_TREES):
        return True
    if home_above.isdisjoint(known.CREDENTIAL_HOME_TREES):
        # A copy of a home's .ssh (a backup, a mounted disk) has the same keys in it.
        return ("/.ssh/" in lower or "/.gnupg/" in lower) and not _public_ssh(lower, name)
    return not (".ssh" in home_above and _public_ssh(lower, name))


def _public_ssh(lower: str, name: str) -> bool:
    return "/.ssh/" in lower and (name in known.PUBLIC_SSH_NAMES or name.endswith(".pub"))


def _git_hooks(lower: str) -> bool:
    """A hook of a repository, or the directory itself. Samples do not run; renaming one to its real name is seen."""
    if "hook" not in lower and ".husky" not in lower:
        return False
    parts = lower.split("/")
    for index in range(1, len(parts)):
        if parts[index] not in ("hooks", ".githooks", ".husky"):
            continue
        inside_git = parts[index - 1].endswith(".git") or ".git" in parts[:index]
        known_name = index == len(parts) - 2 and parts[-1] in known.GIT_HOOK_NAMES
        if parts[index] == "hooks" and not inside_git and not known_name:
            continue
        return not parts[-1].endswith(".sample") or index == len(parts) - 1
    return False


def _git_config(lower: str, name: str) -> bool:
    if name not in known.GIT_CONFIG_NAMES:
        return False
    parts = lower.split("/")
    # …/.git/config, …/thing.git/config, …/.git/modules/x/config, …/.git/worktrees/x/config.worktree
    return parts[-2].endswith(".git") or (".git" in parts and ("modules" in parts or "worktrees" in parts))


def _governed(path: str, lower: str, name: str, above: frozenset[str], own: frozenset[str]) -> bool:
    if not above.isdisjoint(known.GOVERNED_TREES) or not above.isdisjoint(own) or lower in _PROGRAMS:
        return True
    if beneath(path, (_PACKAGE,)):
        return True
    if name in known.GOVERNED_NAMES and lower.startswith(("/usr/", "/bin/", "/sbin/", "/opt/")):
        return True
    units = lower.startswith(("/etc/systemd/", "/usr/lib/systemd/", "/lib/systemd/", "/run/systemd/"))
    return (units and "governed" in name) or "/governed.slice" in lower


def harmless(path: str) -> bool:
    """Device nodes that lead nowhere, the controlling terminal, and POSIX shared memory (shm_overview(7))."""
    return path in known.HARMLESS_DEVICES or path.startswith("/dev/shm/")  # noqa: S108 (judged, not used)


def _device(lower: str) -> bool:
    """Also terminals other than the controlling one: whoever opens them can read and type for another program."""
    if not lower.startswith("/dev/") or harmless(lower):
        return False
    return lower not in ("/dev/shm", "/dev/pts", "/dev/log") and not lower.startswith("/dev/mqueue")  # noqa: S108
