"""What Landlock is told about one sandbox: the profile's envelope, without what is protected where that is possible.

Landlock only knows what is allowed, with all that lies beneath. So a directory that is only read and has something
protected inside is given child by child. What stands in a writable directory cannot be cut out, since new files have to
be possible there: without a seal every open then has to pause.
"""

import itertools
import os
from collections.abc import Iterable, Sequence

from governed.v1 import control_pb2 as pb
from governed_mcpd.subjects.rules import Rules, Tree

MOST_CHILDREN = 4096
TERMINALS = "/dev/pts"


def must_pause_reads(rules: Rules, secret: Iterable[str], *, labelled: Tree | None = None) -> bool:
    """Whether something that may not be read lies where the sandbox may write, so that Landlock cannot keep it away.
    `secret` are the daemon's own directories: the journal's key is in one.

    `labelled` is what a seal keeps from the whole sandbox, besides `secret` and other terminals: what only a child
    Subject's profile protects, its siblings may read, and the seal knows no child Subjects.
    """
    hidden = [*rules.protected.paths]  # also what is not there yet: it may be made later
    if labelled is not None:
        return any(rules.write.covers(path) and not labelled.covers(path) for path in hidden)
    hidden += secret
    if TERMINALS not in rules.write.paths:
        hidden.append(TERMINALS)
    return any(rules.write.covers(path) for path in hidden)


def landlock(rules: Rules, secret: Iterable[str], *, sealed: bool) -> pb.Envelope:
    """The envelope for the launcher's child. Paths that do not exist are left out.

    Call it with the rights of whoever is told: in a directory that they cannot list, only what the rules name is given.

    Where opens for reading do not pause, the daemon's own directories are hidden as well: a sandbox of root could read
    them. So are other terminals, unless a seal guards them: what is typed there could be read. New pseudo-terminals
    cannot be opened then; the controlling terminal can.
    """
    hidden = rules.protected
    write = list(rules.write.paths)
    if not rules.reads_pause:
        hidden = Tree([*hidden.paths, *secret])
        if not sealed:
            hidden = Tree([*hidden.paths, TERMINALS])
            write = [path for path in write if path != TERMINALS]
    envelope = pb.Envelope(write=_encoded(write))
    named = (*rules.read.paths, *rules.execute.paths, *rules.protected.paths, rules.places.cwd, rules.places.home)
    for paths, given in ((rules.read.paths, envelope.read), (rules.execute.paths, envelope.execute)):
        for path in paths:
            if rules.write.covers(path) and given is envelope.read:
                continue
            whole, listed = _around(path, hidden, rules.write, named)
            given.extend(_encoded(whole))
            envelope.list.extend(_encoded(listed))
    return envelope


def _around(root: str, protected: Tree, write: Tree, named: Sequence[str]) -> tuple[list[str], list[str]]:
    """`root` as directories and files that hold nothing protected, and the directories that were opened up for that."""
    if protected.covers(root):
        return [], []
    if root == "/proc":
        # Processes that are born later have to find themselves here. Its protected files are root's, and Landlock keeps
        # other processes' from being looked into (ptrace(2), PTRACE_MODE_READ).
        return [root], []
    if not any(_beneath(path, root) and not write.covers(path) for path in protected.paths):
        return [root], []
    whole: list[str] = []
    listed = [root]
    for path, is_directory in _children(root, named):
        inner, opened = _around(path, protected, write, named) if is_directory else ([path], [])
        whole += [each for each in inner if not protected.covers(each)]
        listed += opened
    return whole, listed


def _children(root: str, named: Sequence[str]) -> list[tuple[str, bool]]:
    """What stands in a directory, symlinks left out, and which of it are directories."""
    try:
        return [
            (entry.path, entry.is_dir(follow_symlinks=False))
            for entry in itertools.islice(
                (entry for entry in os.scandir(root) if not entry.is_symlink()), MOST_CHILDREN
            )
        ]
    except PermissionError:
        above = root.rstrip("/") + "/"
        heads = dict.fromkeys(above + path[len(above) :].partition("/")[0] for path in named if path.startswith(above))
        return [(head, os.path.isdir(head)) for head in heads if not os.path.islink(head)]
    except OSError:
        return []


def _beneath(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")


def _encoded(paths: Iterable[str]) -> list[bytes]:
    return [os.fsencode(path) for path in dict.fromkeys(paths) if os.path.lexists(path)]
