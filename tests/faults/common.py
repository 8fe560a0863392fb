"""What the tests of faults share: policies under which the mechanism can be seen, and programs for inside."""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.instance import Instance

Record = dict[str, Any]
PYTHON = "/usr/bin/python3"
ALL_FILES = (
    "file.write, file.create, file.truncate, file.unlink, file.rmdir, file.rename, file.link, file.symlink, "
    "file.mkdir, file.chmod, file.times, file.xattr"
)


def profile(name: str, *, free: str = "", ceiling: str = "", limits: str = "", reads: str = "envelope") -> str:
    """A Profile that reads everything, writes beneath ${cwd}, and starts any program without asking.

    `free` and `ceiling` are further members of those lists, `limits` the members of that mapping, in YAML's flow style.
    """
    lines = [
        f"kind: Profile\nname: {name}\nreads: {reads}",
        "envelope: {read: [/], write: ['${cwd}', /dev/null, /dev/tty], execute: [/]}",
        "free:\n  - {operations: [process.exec], on: /**}\n  - {operations: [file.read], on: /**}",
    ]
    lines += [f"  - {free}"] if free else []
    lines += [f"ceiling:\n  - {ceiling}"] if ceiling else []
    lines += [f"limits: {{{limits}}}"] if limits else []
    return "\n".join(lines) + "\n"


LOOSE = profile(
    "loose", ceiling="{operations: [file.create, file.write, file.truncate], on: '${cwd}/**', uses: 1000, seconds: 600}"
)
ASKED = profile("asked", free="{operations: [file.write, file.create], on: '${cwd}/free/**'}")


def gate(*, ask: int = 700, deny: int = 900, gate_seconds: int = 30, person_seconds: int = 600) -> str:
    """A Gate document. Thresholds of 0 and 1000 have a person asked about everything that no layer refuses."""
    return (
        f"kind: Gate\nname: gate\nthresholds: {{ask: {ask}, deny: {deny}}}\n"
        f"gate_seconds: {gate_seconds}\nperson_seconds: {person_seconds}\n"
    )


def policies(gate_document: str = "", **more: str) -> dict[str, str | None]:
    """Files beside the shipped ones: the profiles above, those in `more` by name, and an agent that may use all."""
    profiles = {"loose": LOOSE, "asked": ASKED, **more}
    names = ", ".join(["default", "strict", "demo", *profiles])
    files: dict[str, str | None] = {f"profile-{name}.yaml": text for name, text in profiles.items()}
    files["agent-default.yaml"] = f"kind: Agent\nname: default\ntier: Classic\nprofiles: [{names}]\n"
    if gate_document:
        files["gate.yaml"] = gate_document
    return files


def inside(code: str, *arguments: object) -> list[str]:
    """The argument vector of a Python program for a sandbox, which finds `arguments` in sys.argv[1:]."""
    return [PYTHON, "-I", "-S", "-B", "-c", code, *map(str, arguments)]


def effects(records: list[Record], **wanted: object) -> list[Record]:
    """The effect records with these members."""
    return [
        record
        for record in records
        if record["kind"] == "effect" and all(record.get(name) == value for name, value in wanted.items())
    ]


def count(records: list[Record], **wanted: object) -> int:
    """How many effects with these members the records tell of, those that were only counted included."""
    first = {record["seq"] for record in effects(records, **wanted)}
    repeated = (record for record in records if record["kind"] == "effect.repeated" and record["first_seq"] in first)
    return len(first) + sum(record["count"] for record in repeated)


def rules(records: list[Record]) -> Counter[str]:
    """How often each rule refused, first records only."""
    return Counter(str(record["rule"]) for record in effects(records, decision="deny"))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def daemon_pid(instance: Instance) -> int:
    assert instance.daemon is not None
    return instance.daemon.pid


def cgroups(instance: Instance) -> list[Path]:
    """The cgroups of the instance's sandboxes; a daemon that stopped in order has removed its own as well."""
    own = "governed-" + "".join(c if c.isalnum() else "-" for c in str(instance.runtime_dir).strip("/"))[-64:]
    # Not rglob, which raises where a cgroup goes while it is looked through; os.walk passes over it.
    found = [
        (Path(above, name), set(directories))
        for above, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith(own)
        for _, directories, _ in [next(os.walk(Path(above, name)), ("", [], []))]
    ]
    assert len(found) <= 1, f"the daemon's cgroup {own}: {found}"
    return [found[0][0] / name for name in found[0][1]] if found else []


def scratches(instance: Instance) -> list[str]:
    """Mounted scratch directories of the instance."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [line.split()[4] for line in file if line.split()[4].startswith(f"{instance.runtime_dir}/scratch/")]


def left_behind(instance: Instance) -> Mapping[str, object]:
    """What a sandbox would leave: empty values when there is nothing."""
    return {
        "sandboxes": [info.subject.sandbox for info in instance.sandboxes()],
        "cgroups": cgroups(instance),
        "mounts": scratches(instance),
        "scratch": os.listdir(instance.runtime_dir / "scratch"),
    }


def settles(instance: Instance, seconds: float = 15) -> None:
    """Waits until no sandbox and nothing of one is left; AssertionError with what still is."""
    what: list[Mapping[str, object]] = [{}]

    def nothing() -> bool | None:
        what[0] = left_behind(instance)
        return None if any(what[0].values()) else True

    instance.wait_until(nothing, lambda: f"nothing to be left: {what[0]}", seconds)


def within(seconds: float, found: Callable[[], bool], what: str) -> None:
    """Like Instance.wait_until, also while no daemon runs."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def verified(instance: Instance) -> None:
    """The journal on disk is whole."""
    done = subprocess.run(
        instance.command("journal", "verify", "--state-dir", str(instance.state_dir)),
        capture_output=True,
        text=True,
        env=instance.environment(0),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
