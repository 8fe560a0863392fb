"""The same work in sandlock, by its Python package; runs under the interpreter of the peers' environment.

    peer_sandlock.py opens KIND DIRECTORY ARGV…     runs ARGV in a sandbox, passes on what it prints
    peer_sandlock.py start COUNT DIRECTORY          prints a JSON list: nanoseconds of each Sandbox.run(["/bin/true"])

KIND: `plain` (its own policy alone), `policy_fn` (a Python function is asked about each event: 0.9.0 tells it the
system call and its category, not the path), `handler` (a Python handler on openat that reads the path from the caller's
memory and looks at it: what comes nearest to a decision about the object).
"""

import json
import sys
import time
from typing import Any

from sandlock import Sandbox
from sandlock.handler import Handler, HandlerCtx, NotifAction

READABLE = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev"]
PROTECTED = ("/etc/shadow", "/root/")


class LooksAtPath(Handler):
    """A callback with the least that a policy needs: the path, and two protected trees."""

    def handle(self, ctx: HandlerCtx) -> NotifAction:
        path = ctx.read_path()
        if path is None or path.startswith(PROTECTED):
            return NotifAction.errno(1)
        return NotifAction.continue_()


def look(event: Any, _context: Any) -> bool:
    """True denies."""
    return event.category == "network"


def sandbox(directory: str, **more: Any) -> Sandbox:
    return Sandbox(fs_readable=READABLE, fs_writable=[directory], **more)


def opens(kind: str, directory: str, argv: list[str]) -> int:
    if kind == "handler":
        handler = LooksAtPath()
        result = sandbox(directory).run_with_handlers(argv, [("openat", handler), ("open", handler)])
    else:
        result = sandbox(directory, **({"policy_fn": look} if kind == "policy_fn" else {})).run(argv)
    sys.stdout.buffer.write(result.stdout)
    sys.stderr.buffer.write(result.stderr or str(getattr(result, "error", "")).encode())
    return int(result.exit_code)


def start(count: int, directory: str) -> int:
    taken = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        result = sandbox(directory).run(["/bin/true"])
        taken.append(time.perf_counter_ns() - begun)
        if result.exit_code != 0:
            return 1
    print(json.dumps(taken))
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "opens":
        sys.exit(opens(sys.argv[2], sys.argv[3], sys.argv[4:]))
    sys.exit(start(int(sys.argv[2]), sys.argv[3]))
