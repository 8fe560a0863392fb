"""make bench-peers: the same work in sandlock and in agent-governance-toolkit, in turn with our own, in one run.

Installs both from PyPI into a temporary environment, which is removed afterwards. Prints a table (stderr) and JSON
(stdout, or the file that --json names). What was run is said in docs/benchmarks.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import layers
from tests.bench.figures import Figure, Run, Target, figure, publish
from tests.bench.sandboxed import SANDBOX, UNLEASED, Bench
from tests.support.users import USER

PACKAGES = ("sandlock==0.9.0", "agent-governance-toolkit[core]==4.1.0")
HERE = Path(__file__).parent
SANDLOCK = "sandlock"
WITH_FUNCTION = "sandlock, policy_fn"
WITH_PATH = "sandlock, handler that reads the path"
Calls = dict[str, Callable[[], list[int]]]


class Peers:
    """The peers' environment, and our own beside it. Everything runs as the ordinary user."""

    def __init__(self, directory: str, bench: Bench) -> None:
        self._python = str(Path(directory) / "bin" / "python")
        self._bench = bench
        self._scripts = bench.instance.work

    def copy_scripts(self) -> None:
        for script in HERE.glob("peer_*.py"):
            (self._scripts / script.name).write_text(script.read_text())

    def _run(self, *words: object) -> list[int]:
        done = self._bench.instance.as_user(USER, self._python, "-I", *map(str, words), timeout=300)
        if done.returncode != 0:
            raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr[-1000:]}")
        taken: list[int] = json.loads(done.stdout)
        return taken

    def opens(self, kind: str, path: Path, count: int) -> list[int]:
        script = self._scripts / "peer_sandlock.py"
        return self._run(script, "opens", kind, self._scripts, *self._bench.work("opens", path, count))

    def starts(self, count: int) -> list[int]:
        return self._run(self._scripts / "peer_sandlock.py", "start", count, self._scripts)

    def start_program(self) -> list[int]:
        """A program that starts one sandbox, as our launcher is one."""
        script = self._scripts / "peer_sandlock.py"
        return self._bench.start(self._python, "-I", script, "start", 1, self._scripts)

    def governed(self, rules: int, count: int) -> list[int]:
        return self._run("-W", "ignore", self._scripts / "peer_toolkit.py", rules, count)


def opens(run: Run, bench: Bench, peers: Peers, rounds: int, count: int) -> None:
    path = bench.file("open")
    calls: Calls = {
        "native": lambda: bench.native_opens(path, count),
        "governed-mcpd, lease": lambda: bench.paused_opens(path, count),
        SANDLOCK: lambda: peers.opens("plain", path, count),
        WITH_FUNCTION: lambda: peers.opens("policy_fn", path, count),
        WITH_PATH: lambda: peers.opens("handler", path, count),
        "governed-mcpd, gate call": lambda: bench.paused_opens(path, max(count // 10, 50), UNLEASED),
    }
    taken = in_turn(calls, rounds)
    run.sections["open for writing, as the ordinary user"] = figures(taken)
    for peer in (SANDLOCK, WITH_FUNCTION, WITH_PATH):
        compare(run, f"open: governed-mcpd with a lease / {peer}", taken["governed-mcpd, lease"], taken[peer])
    ratio = run.ratios[f"open: governed-mcpd with a lease / {WITH_FUNCTION}"]
    run.targets.append(Target(f"open with a lease and a record / {WITH_FUNCTION}", ratio, 0.4))


def starts(run: Run, bench: Bench, peers: Peers, rounds: int) -> None:
    calls: Calls = {
        "/bin/true": lambda: bench.start("/bin/true"),
        SANDBOX: bench.sandbox_start,
        "python: import sandlock, one Sandbox.run": peers.start_program,
        "sandlock, Sandbox.run in a process that has it imported": lambda: peers.starts(5),
    }
    for call in calls.values():
        call()
    taken = in_turn(calls, rounds)
    run.sections["start around /bin/true"] = figures(taken)
    for peer in list(calls)[2:]:
        compare(run, f"start: {SANDBOX} / {peer}", taken[SANDBOX], taken[peer])


def decisions(run: Run, peers: Peers, rounds: int, count: int) -> None:
    """A tool call that is decided and recorded, at 1, 10 and 100 rules; here also kept in a journal on disk."""
    with layers.ToolCalls() as ours:
        calls: Calls = {}
        for size in layers.SIZES:
            calls[f"governed-mcpd, five layers and a record, {layers.plural(size)}"] = ours.timer(size, count)
            calls[f"agent-governance-toolkit, govern() with audit, {layers.plural(size)}"] = _governed(
                peers, size, count
            )
        taken = in_turn(calls, rounds)
    run.sections["a tool call decided and recorded"] = figures(taken)
    names = list(taken)
    for size, own, theirs in zip(layers.SIZES, names[::2], names[1::2], strict=True):
        compare(run, f"tool call, {layers.plural(size)}: governed-mcpd / govern()", taken[own], taken[theirs])


def _governed(peers: Peers, size: int, count: int) -> Callable[[], list[int]]:
    return lambda: peers.governed(size, count)


def in_turn(calls: Calls, rounds: int) -> dict[str, list[list[int]]]:
    """Each once per round, so that what else the machine does weighs on all alike."""
    taken: dict[str, list[list[int]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(call())
    return taken


def figures(taken: dict[str, list[list[int]]]) -> dict[str, Figure]:
    return {name: figure(values) for name, values in taken.items()}


def compare(run: Run, name: str, ours: list[list[int]], theirs: list[list[int]]) -> float:
    """The median, over the rounds, of ours / theirs in the same round; its range becomes a note."""
    ratios = [statistics.median(own) / statistics.median(other) for own, other in zip(ours, theirs, strict=True)]
    run.notes.append(f"{name}: from {min(ratios):.2f} to {max(ratios):.2f} in single rounds")
    run.ratios[name] = round(statistics.median(ratios), 3)
    return run.ratios[name]


def install(directory: str) -> str:
    """Makes the environment; empty when that worked, else why not."""
    python = str(Path(directory) / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", directory],
        [python, "-m", "pip", "install", "-q", "--no-cache-dir", "--disable-pip-version-check", *PACKAGES],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return (done.stderr or done.stdout).strip().splitlines()[-1]
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-peers", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="where the JSON goes (default: stdout)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for looking, not for figures")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("make bench-peers: root is needed to supervise other users' processes: run it with sudo", file=sys.stderr)
        return 1
    run = Run()
    quick = options.quick
    with tempfile.TemporaryDirectory(prefix="governed-peers-") as directory, Bench() as bench:
        Path(directory).chmod(0o755)
        problem = install(directory)
        if problem:
            print(f"make bench-peers: {', '.join(PACKAGES)} could not be installed: {problem}", file=sys.stderr)
            return 1
        peers = Peers(directory, bench)
        peers.copy_scripts()
        run.machine["peers"] = ", ".join(PACKAGES)
        opens(run, bench, peers, 2 if quick else 7, 1000 if quick else 5000)
        starts(run, bench, peers, 3 if quick else 15)
        decisions(run, peers, 2 if quick else 5, 300 if quick else 1500)
    publish(run, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
