"""What only a running gate and daemon can show: pauses, approvals per second, the start of a sandbox."""

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from governed_mcpd.policy.text import read
from tests.bench.figures import Figure, Run, Target, figure
from tests.support.instance import SHIPPED_POLICIES, Done, Instance, Program
from tests.support.users import USER

WORK = Path(__file__).with_name("work.py")
PYTHON = "/usr/bin/python3"
SANDBOX = "governedctl run -- /bin/true"
UNLEASED = "unleased"  # the default profile with no ceiling: every open asks the gate


@dataclass(frozen=True, slots=True)
class PauseTimes:
    """Nanoseconds, from the receipt of each notification to its record: with a lease, with a gate call, and what of the
    latter was spent waiting for the gate."""

    leased: list[int]
    asked: list[int]
    gate: list[int]


class Bench:
    """An instance with the shipped policies and one profile more, and the work where a sandbox can read it."""

    def __init__(self) -> None:
        self.instance = Instance(policies=_policies())

    def __enter__(self) -> "Bench":
        self.instance.__enter__()
        shutil.copy(WORK, self.instance.work / WORK.name)
        return self

    def __exit__(self, *error: object) -> None:
        self.instance.__exit__(None, None, None)

    def file(self, name: str) -> Path:
        """An empty file of the ordinary user's, in the directory that sandboxes work in."""
        path = self.instance.work / name
        path.touch()
        os.chown(path, USER, USER)
        return path

    def work(self, *words: object) -> list[str]:
        """The command line of work.py. Isolated and without site: less of Python's own start is paused."""
        return [PYTHON, "-IS", str(self.instance.work / WORK.name), *map(str, words)]

    # ---- one open

    def native_opens(self, path: Path, count: int) -> list[int]:
        return _numbers(self.instance.as_user(USER, *self.work("opens", path, count), timeout=300))

    def paused_opens(self, path: Path, count: int, profile: str = "default") -> list[int]:
        return _numbers(self.instance.run(*self.work("opens", path, count), profile=profile, quiet=True, timeout=300))

    def pause_times(self, path: Path) -> "PauseTimes":
        """What the journal says of the approved opens of `path`."""
        found = PauseTimes([], [], [])
        for record in self.instance.journal():
            if record["kind"] == "effect" and record["object"] == str(path) and record["decision"] == "allow":
                if record["layer"] == "lease":
                    found.leased.append(record["pause_us"] * 1000)
                else:
                    found.asked.append(record["pause_us"] * 1000)
                    found.gate.append(record["gate_us"] * 1000)
        return found

    def daemon_cpu(self) -> float:
        """Seconds of CPU time that the daemon has used."""
        assert self.instance.daemon is not None
        fields = Path(f"/proc/{self.instance.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # ---- many sandboxes

    def approvals_per_second(self, sandboxes: int, seconds: float) -> float:
        """Leased opens of `sandboxes` that run at the same time, each on a file of its own."""
        programs = [
            self.instance.spawn(*self.work("count", self.file(f"many-{number}")), quiet=True)
            for number in range(sandboxes)
        ]
        for program in programs:
            assert program.stdout is not None
            if program.stdout.readline() != b"ready\n":
                raise RuntimeError(f"a sandbox did not start: {_errors(program)}")
        start = time.monotonic() + 0.2
        told = f"{start} {start + seconds}\n".encode()
        for program in programs:
            assert program.stdin is not None
            program.stdin.write(told)
            program.stdin.flush()
        total = 0
        for program in programs:
            output, errors = program.communicate(timeout=seconds + 60)
            if program.returncode != 0:
                raise RuntimeError(
                    f"a sandbox ended with {program.returncode}: {errors.decode(errors='replace')[-500:]}"
                )
            total += int(output)
        return total / seconds

    # ---- start

    def start(self, *argv: object, count: int = 1) -> list[int]:
        """Nanoseconds from the start of a program, as the ordinary user, to its end."""
        return _numbers(self.instance.as_user(USER, *self.work("start", count, *argv), timeout=300))

    def sandbox_start(self) -> list[int]:
        return self.start(*self.instance.command("run", "--quiet", "--", "/bin/true"))


def pauses(run: Run, bench: Bench, rounds: int, count: int) -> dict[str, Figure]:
    """`open` for writing of an existing file, absolute path: native, leased, and with a gate call each, in turn."""
    paths = {name: bench.file(f"open-{name}") for name in ("leased", "asked")}
    native, leased, asked = [], [], []
    cpu = 0.0
    for _ in range(rounds):
        native.append(bench.native_opens(paths["leased"], count))
        before = bench.daemon_cpu()
        leased.append(bench.paused_opens(paths["leased"], count))
        cpu += bench.daemon_cpu() - before
        asked.append(bench.paused_opens(paths["asked"], max(count // 10, 50), UNLEASED))
    held, held_asked = bench.pause_times(paths["leased"]), bench.pause_times(paths["asked"])
    found = {
        "native": figure(native),
        "paused, lease": figure(leased),
        "  held by the supervisor": figure([held.leased]),
        "paused, gate call": figure(asked),
        "  held by the supervisor, with the gate": figure([held_asked.asked]),
        "  waiting for the gate": figure([held_asked.gate]),
    }
    run.sections["open for writing, as the ordinary user"] = found
    run.ratio("open: paused with a lease / native", found["paused, lease"].p50, found["native"].p50)
    run.ratio("open: paused with a gate call / native", found["paused, gate call"].p50, found["native"].p50)
    run.ratio("open: gate call / lease", found["paused, gate call"].p50, found["paused, lease"].p50)
    run.notes.append(
        f"the daemon used {cpu * 1e6 / (rounds * count):.1f} µs of CPU per leased open (start and end of the sandbox "
        "included)"
    )
    return found


def throughput(run: Run, bench: Bench, rounds: int, seconds: float, many: int = 32) -> None:
    """Leased opens per second over one and over `many` sandboxes, in turn."""
    one, all_together = [], []
    for _ in range(rounds):
        one.append(bench.approvals_per_second(1, seconds))
        all_together.append(bench.approvals_per_second(many, seconds))
    run.rates["approvals, 1 sandbox"] = statistics.median(one)
    run.rates[f"approvals, {many} sandboxes together"] = statistics.median(all_together)
    # Round by round: what else the machine does then weighs on both alike.
    ratio = statistics.median(together / alone for together, alone in zip(all_together, one, strict=True))
    run.ratios[f"approvals: {many} sandboxes together / one"] = round(ratio, 3)
    run.targets.append(Target(f"approvals, {many} sandboxes together / one", round(ratio, 3), 0.8, at_most=False))


def starts(run: Run, bench: Bench, count: int) -> dict[str, Figure]:
    """A sandbox around /bin/true, from the start of the launcher to its end; and what that has to be compared with."""
    calls: dict[str, Callable[[], list[int]]] = {
        "/bin/true": lambda: bench.start("/bin/true"),
        "python -IS -c pass": lambda: bench.start(sys.executable, "-IS", "-c", "pass"),
        SANDBOX: bench.sandbox_start,
    }
    taken: dict[str, list[int]] = {name: call() for name, call in calls.items()}  # the first is for the page cache
    for values in taken.values():
        values.clear()
    for _ in range(count):
        for name, call in calls.items():
            taken[name] += call()
    found = {name: figure([values]) for name, values in taken.items()}
    run.sections["start"] = found
    sandbox = found[SANDBOX].p50
    run.ratio("start: sandbox / bare Python", sandbox, found["python -IS -c pass"].p50)
    run.targets.append(Target("start of a sandbox around /bin/true, p50", round(sandbox / 1000, 1), 120, "ms"))
    return found


def _policies() -> dict[str, str]:
    """The default profile once more, without its ceiling, and an agent that may use it."""
    profile, agent = (
        read(name, (SHIPPED_POLICIES / name).read_bytes())[0].value
        for name in ("profile-default.yaml", "agent-default.yaml")
    )
    profile |= {"name": UNLEASED, "ceiling": []}
    agent["profiles"].append(UNLEASED)
    return {f"profile-{UNLEASED}.yaml": json.dumps(profile), "agent-default.yaml": json.dumps(agent)}


def _numbers(done: Done) -> list[int]:
    if done.returncode != 0:
        raise RuntimeError(f"{done.args} ended with {done.returncode}: {done.stderr[-1000:]}")
    taken: list[int] = json.loads(done.stdout)
    return taken


def _errors(program: Program) -> str:
    program.kill()
    return program.communicate()[1].decode(errors="replace")[-500:]
