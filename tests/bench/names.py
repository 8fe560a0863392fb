"""What a lookup costs: a program asks a name server on loopback, directly and from a sandbox through the resolver.

Each lookup in the sandbox is led by the kernel, judged, recorded before it leaves, asked, noted and recorded again.
"""

import subprocess

from tests.bench.figures import Run, figure
from tests.names.upstream import serving
from tests.programs.profiles import ROOMY
from tests.support.instance import Instance
from tests.support.users import USER, identity

AGENT = "kind: Agent\nname: default\ntier: Classic\nprofiles: [leased, judged]\n"
MOST_JUDGED = 60  # in a round: together they stay within the rate of the Gate document
NAME = "page.example.org"
LEASED = ROOMY.replace("name: roomy", "name: leased").replace(
    "free:\n", "free:\n  - {operations: [net.resolve], on: 'name:*'}\n"
)
JUDGED = ROOMY.replace("name: roomy", "name: judged")
# Asks over one connected socket, as libc does, and prints nanoseconds.
ASKING = """
import socket, sys, time
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
labels = b''.join(bytes([len(part)]) + part for part in b'NAME'.split(b'.')) + b'\\0'
query = b'\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + labels + b'\\0\\1\\0\\1'
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(10)
one.connect((address, port))
for _ in range(count):
    begun = time.perf_counter_ns()
    one.send(query)
    answer = one.recv(512)
    print(time.perf_counter_ns() - begun)
    assert answer[3] & 15 == 0, answer
""".replace("NAME", NAME)


def measure(run: Run, rounds: int, count: int) -> None:
    """Rounds of direct and governed lookups in turn."""
    policies: dict[str, str | None] = {
        "leased.yaml": LEASED,
        "judged.yaml": JUDGED,
        "agent-default.yaml": AGENT,
    }
    shown = {"leased": "run free by the profile", "judged": "a gate call each"}
    with serving({NAME: ["A 127.0.0.1"]}) as upstream, Instance(policies, upstreams=upstream.configured) as instance:
        alone: list[list[int]] = []
        governed: dict[str, list[list[int]]] = {profile: [] for profile in shown}
        for _ in range(rounds):
            alone.append(_directly(instance, upstream.port, count))
            for profile, taken in governed.items():
                # Without a ceiling there is no lease: the gate is asked each time.
                taken.append(_inside(instance, profile, count if profile == "leased" else min(count, MOST_JUDGED)))
        run.sections["lookup of a name"] = {
            "directly": figure(alone),
            **{f"in a sandbox, {shown[profile]}": figure(taken) for profile, taken in governed.items()},
        }


def _directly(instance: Instance, port: int, count: int) -> list[int]:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", ASKING, "127.0.0.1", str(port), str(count)],
        capture_output=True,
        text=True,
        check=True,
        env=instance.environment(USER),
        cwd=instance.work,
        **identity(USER),
    )
    return [int(line) for line in done.stdout.split()]


def _inside(instance: Instance, profile: str, count: int) -> list[int]:
    task = f"Read {NAME}"  # a name of the task needs no person
    words = ("/usr/bin/python3", "-c", ASKING, "192.0.2.53", "53", str(count))
    done = instance.run(*words, profile=profile, task=task, quiet=True, timeout=300)
    assert done.returncode == 0, done
    return [int(line) for line in done.stdout.split()]
