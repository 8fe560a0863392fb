"""The work that is measured: opens an existing file for writing, over and over. Runs natively, in a sandbox of
governed-mcpd and in those of peers, always under the same interpreter; so it needs nothing but the standard library.

    work.py opens PATH COUNT      prints a JSON list: nanoseconds of each open
    work.py start COUNT ARGV…     prints a JSON list: nanoseconds from each start of a program to its end
    work.py count PATH            reads START and END (monotonic seconds) from stdin, prints how many opens came between
"""

import gc
import json
import os
import sys
import time

WARM_UP = 200


def opens(path: str, count: int) -> None:
    """Times each open; the close is not part of it, since no one holds it."""
    clock, flags = time.perf_counter_ns, os.O_WRONLY
    taken = []
    for _ in range(count + WARM_UP):
        begun = clock()
        descriptor = os.open(path, flags)
        ended = clock()
        os.close(descriptor)
        taken.append(ended - begun)
    print(json.dumps(taken[WARM_UP:]))


def count(path: str) -> None:
    """Opens from START to END, which all who take part are told; they begin and stop together."""
    for _ in range(WARM_UP):
        os.close(os.open(path, os.O_WRONLY))
    print("ready", flush=True)
    start, end = map(float, sys.stdin.readline().split())
    clock, flags = time.monotonic, os.O_WRONLY
    done = 0
    time.sleep(max(0.0, start - clock()))
    while clock() < end:
        os.close(os.open(path, flags))
        done += 1
    print(json.dumps(done), flush=True)


def start(count: int, argv: list[str]) -> None:
    """Like a shell: a small process that spawns and waits. (One that is large, or changes the user, takes longer.)"""
    taken = []
    null = os.open(os.devnull, os.O_RDWR)
    quiet = [(os.POSIX_SPAWN_DUP2, null, descriptor) for descriptor in (0, 1, 2)]
    for _ in range(count):
        begun = time.perf_counter_ns()
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=quiet)
        status = os.waitpid(pid, 0)[1]
        taken.append(time.perf_counter_ns() - begun)
        if status:
            sys.exit(f"{argv} ended with wait status {status}")
    print(json.dumps(taken))


if __name__ == "__main__":
    gc.disable()
    if sys.argv[1] == "opens":
        opens(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1] == "start":
        start(int(sys.argv[2]), sys.argv[3:])
    else:
        count(sys.argv[2])
