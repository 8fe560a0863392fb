"""Takes on an Envelope as a given uid, then tries things; prints what came of each as JSON. Run as a script."""

import ctypes
import errno
import json
import os
import sys

import prctl

from governed_mcpd.sandbox import envelope


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _write(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"x")


def _create(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _execute(path: str) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(path, [path])
        except OSError as error:
            os._exit(error.errno or 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(status, "execve")


def _signal(pid: str) -> None:
    os.kill(int(pid), 0)


def _link(paths: str) -> None:
    os.link(*paths.split("|"))


def _rename(paths: str) -> None:
    os.rename(*paths.split("|"))


def _mknod_device(path: str) -> None:
    os.mknod(path, 0o20600, os.makedev(1, 3))


ACTIONS = {
    "read": _read,
    "list": os.listdir,
    "write": _write,
    "create": _create,
    "truncate": lambda path: os.truncate(path, 0),
    "unlink": os.unlink,
    "mkdir": os.mkdir,
    "execute": _execute,
    "stat": os.stat,
    "link": _link,
    "rename": _rename,
    "device": _mknod_device,
    "signal": _signal,
}


def main() -> None:
    """stdin: {uid, read, write, execute, attempts: [[action, object], …]}."""
    asked = json.load(sys.stdin)
    ctypes.CDLL(None)
    if asked["uid"]:
        os.setgroups([])
        os.setresgid(asked["uid"], asked["uid"], asked["uid"])
        os.setresuid(asked["uid"], asked["uid"], asked["uid"])
    prctl.set_no_new_privs(1)
    try:
        envelope.take_on(*[[os.fsencode(path) for path in asked[which]] for which in ("read", "write", "execute")])
    except envelope.SandboxError as error:
        print(json.dumps({"failed": str(error)}))
        return
    results = []
    for action, what in asked["attempts"]:
        try:
            ACTIONS[action](what)
            results.append("OK")
        except OSError as error:
            results.append(errno.errorcode[error.errno or 0])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
