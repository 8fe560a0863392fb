"""A daemon with nothing but a seal, for tests that kill one: says what it found, and marks a process if told to."""

import json
import os
import sys

from governed_mcpd.grant.lsm import LsmSeal
from governed_mcpd.grant.seal import SealFailed


def main() -> None:
    try:
        seal = LsmSeal()
    except SealFailed as failure:
        print(json.dumps({"failed": str(failure)}), flush=True)
        return
    print(json.dumps({"taken_up": seal.taken_up, "sandboxes": seal.sandboxes(), "tasks": seal.tasks()}), flush=True)
    for line in sys.stdin:
        if line.strip() == "adopt":
            # The mark goes to a process that outlives this one: its parent, the test, keeps it.
            pid = int(sys.stdin.readline())
            pidfd = os.pidfd_open(pid)
            seal.adopt("left-behind", pid, pidfd)
            print(json.dumps({"adopted": pid}), flush=True)
        elif line.strip() == "events":
            found = [[event.operation, event.object, event.sandbox] for event in seal.take_events()]
            print(json.dumps({"events": found}), flush=True)


if __name__ == "__main__":
    main()
