"""agent-governance-toolkit's govern() per call, with its audit log; runs under the interpreter of the peers'
environment.

    peer_toolkit.py RULES COUNT    prints a JSON list: nanoseconds of each governed call of a function that does nothing

The call is a tool call whose path and message stand in the context. All rules but the last look at the path and do not
match; the last permits. The audit log is its default, in memory.
"""

import json
import sys
import time

from agentmesh.governance import govern

RULE = """\
  - name: site-{0}
    condition: "path.value == '/srv/site-{0}/file'"
    action: deny
"""
LAST = """\
  - name: all
    condition: "action.type == 'git_commit'"
    action: allow
"""


def policy(rules: int) -> str:
    head = "apiVersion: governance.toolkit/v1\nname: bench\ndefault_action: deny\nrules:\n"
    return head + "".join(RULE.format(number) for number in range(rules - 1)) + LAST


def nothing(**_arguments: str) -> None:
    """What is governed."""


def main(rules: int, count: int) -> None:
    governed = govern(nothing, policy=policy(rules), agent_id="default")
    arguments = {"action": "git_commit", "path": "/home/ana/project", "message": "Fix the parser"}
    for _ in range(50):
        governed(**arguments)
    taken = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        governed(**arguments)
        taken.append(time.perf_counter_ns() - begun)
    assert governed.audit_log is not None
    print(json.dumps(taken))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
