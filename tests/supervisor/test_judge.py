"""What the daemon decides by itself, and that the neighbour of each refusal is left to the gate or allowed."""

import pytest

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern
from governed_mcpd.nouns.verdict import Decision, Verdict
from governed_mcpd.subjects.sandbox import Acting, Sandbox
from governed_mcpd.supervisor.judge import Judge, terminal_name
from tests.supervisor.acting import SCRATCH, acting, profile, sandbox

PTS_3, OWN_PTS = 136 << 8 | 3, 136 << 8 | 7  # tty_nr of /dev/pts/3 and 7


class Made:
    """A sandbox that made /dev/pts/9."""

    def made_by(self, sandbox: Sandbox, device: str) -> bool:
        return device == "char:136:9"


class Own:
    """governed-mcpd is process 77."""

    def reached(self, effect: SideEffect) -> bool:
        return effect.object == "process:77"


def judge() -> Judge:
    return Judge(
        never=["/run/governed-test", "/work/governed"],
        cgroups=["/sys/fs/cgroup", "/work/cgroup"],
        sockets=["unix:/run/governed-test/control.sock"],
        terminals=Made(),
        processes=Own(),
        asking="unix:/run/governed-test/sandbox.sock",
    )


def test_dns_goes_where_the_kernel_leads_it() -> None:
    assert rule("net.connect", "udp:9.9.9.9:53", dns="led") == "+dns"
    assert rule("net.send", "udp:9.9.9.9:53", dns="the socket came from outside") == "-dns-elsewhere"
    everything = profile(free=[{"operations": ["net.connect", "net.send"], "on": "udp:*:*"}])
    assert rule("net.connect", "udp:9.9.9.9:53", who=acting(everything), dns="no resolver") == "-dns-elsewhere"
    assert rule("net.connect", "udp:9.9.9.9:123", who=acting(everything)) == "+free"


LOCAL = {"address": "127.0.0.1", "names": "a.example"}
PUBLIC = {"address": "93.184.216.34", "names": "a.example"}


def test_what_runs_free_by_name_does_not_follow_a_name_to_this_machine() -> None:
    """DNS rebinding: whoever answers for a name chooses the address."""
    by_name = profile(free=[{"operations": ["net.connect"], "on": "tcp:a.example:443"}])
    assert rule("net.connect", "tcp:a.example:443", who=acting(by_name), **PUBLIC) == "+free"
    assert rule("net.connect", "tcp:a.example:443", who=acting(by_name), **LOCAL) == ""
    widest = profile(free=[{"operations": ["net.connect"], "on": "tcp:*:443"}])
    assert rule("net.connect", "tcp:a.example:443", who=acting(widest), **PUBLIC) == "+free"
    by_address = profile(free=[{"operations": ["net.connect"], "on": "tcp:127.0.0.0/8:443"}])
    assert rule("net.connect", "tcp:a.example:443", who=acting(by_address), **LOCAL) == "+free"
    assert rule("net.connect", "tcp:a.example:443", who=acting(by_address), **PUBLIC) == ""
    assert rule("net.connect", "tcp:a.example:443", who=acting(by_address, by_name), **LOCAL) == ""


def test_a_lease_on_a_name_does_not_either() -> None:
    pattern = Pattern.parse("tcp:a.example:443")
    for fields, local in (({}, ""), ({"ceiling": [CEILING]}, "+r")):
        who = acting(profile(**fields))
        who.ledger.add(Lease(frozenset({Operation.NET_CONNECT}), pattern, 5, 60, "v1"), "r")
        assert rule("net.connect", "tcp:a.example:443", who=who, **PUBLIC) == "+r"
        assert rule("net.connect", "tcp:a.example:443", who=who, **LOCAL) == local


CEILING = {"operations": ["net.connect"], "on": "tcp:127.0.0.1:443", "uses": 1, "seconds": 1}


def decide(effect: SideEffect, who: Acting | None = None) -> Verdict | None:
    who = who or acting()
    return judge().verdict(sandbox(who, terminal=OWN_PTS), who, effect, "v1")


def rule(operation: str, name: str, second: str = "", who: Acting | None = None, **details: str) -> str:
    """The deciding rule with + or - for allowed and refused; empty when the gate has to be asked."""
    verdict = decide(SideEffect(Operation(operation), name, second, details=details), who)
    if verdict is None:
        return ""
    assert verdict.policy_version == "v1"
    return ("+" if verdict.decision is Decision.ALLOW else "-") + verdict.rule


NEVER = [
    ("net.connect", "unix:/run/nscd/socket", "-dns-elsewhere", "net.connect", "unix:/run/nscd2/socket", ""),
    ("net.send", "unix:/run/systemd/resolve/io.x", "-dns-elsewhere", "net.send", "unix:/run/systemd/x", ""),
    ("net.connect", "tcp:192.0.2.1:853", "-dns-elsewhere", "net.connect", "tcp:192.0.2.1:8530", ""),
    ("net.send", "udp:224.0.0.251:5353", "-dns-elsewhere", "net.bind", "udp:0.0.0.0:5353", ""),
    ("file.write", "/run/governed-test/journal", "-never-own-files", "file.write", "/work/other", ""),
    ("file.read", "/run/governed-test", "-never-own-files", "file.read", "/work/x", ""),
    ("file.unlink", "/work/governed/x", "-never-own-files", "file.unlink", "/work/governed2", ""),
    ("file.write", "/work/cgroup/cgroup.procs", "-never-cgroups", "file.read", "/work/cgroup/cgroup.procs", ""),
    ("net.bind", "unix:/run/governed-test/x", "-never-own-files", "net.bind", "unix:/work/x", ""),
    ("net.connect", "unix:/run/governed-test/control.sock", "-never-own-sockets",
     "net.connect", "unix:/run/governed-test/sandbox.sock", "+child-subject"),
    ("net.send", "unix:/run/governed-test/control.sock", "-never-own-sockets", "net.send", "unix:/run/other", ""),
    ("process.signal", "process:77", "-never-own-processes", "process.signal", "process:7", ""),
    ("process.signal", "process:-1", "-never-signal-all", "process.signal", "process:1", ""),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "name", "expected", "beside", "neighbour", "instead"), NEVER)
def test_the_never_list(operation: str, name: str, expected: str, beside: str, neighbour: str, instead: str) -> None:
    assert rule(operation, name) == expected
    assert rule(beside, neighbour) == instead


def test_nothing_is_allowed_on_the_never_list() -> None:
    """Also where a profile lets everything run free, and a lease covers it."""
    everything = [operation.value for operation in Operation]
    wide = profile(
        envelope={"read": ["/"], "write": ["/"], "execute": ["/"]}, free=[{"operations": everything, "on": "/**"}]
    )
    who = acting(wide)
    who.ledger.add(Lease(frozenset(Operation), Pattern.parse("/**"), 100, 100, "v1"), "leased")
    assert rule("file.write", "/run/governed-test/journal", who=who) == "-never-own-files"
    assert rule("file.rename", "/work/x", "/work/governed/x", who=who) == "-never-own-files"
    assert rule("file.rename", "/work/governed/x", "/work/x", who=who) == "-never-own-files"
    assert rule("file.link", "/run/governed-test/key", "/work/x", who=who) == "-never-own-files"
    assert rule("file.rename", "/run", "/work/run", who=who) == "-never-own-files"
    assert rule("file.write", "/etc/x", who=who) == "+free"


def test_devices() -> None:
    wide = acting(profile(envelope={"read": ["/"], "write": ["/"], "execute": ["/"]}))
    cases = {
        ("file.write", "char:1:3"): "+device", ("file.read", "char:1:9"): "+device",
        ("file.write", "char:5:2"): "+device",
        ("file.write", "char:1:1"): "-never-memory-device", ("file.read", "char:1:11"): "-never-memory-device",
        ("file.write", "block:8:0"): "-never-block-device", ("file.read", "block:8:0"): "-never-block-device",
        ("file.write", "char:5:0"): "+terminal", ("file.write", "char:136:7"): "+terminal",
        ("file.read", "char:136:9"): "+terminal", ("file.read", "char:136:3"): "-foreign-terminal",
        ("file.write", "char:137:7"): "-foreign-terminal", ("file.write", "char:4:1"): "-foreign-terminal",
        ("file.chmod", "char:136:3"): "", ("file.write", "char:195:0"): "",
    }  # fmt: skip
    for (operation, device), expected in cases.items():
        assert rule(operation, "/dev/any", who=wide, device=device) == expected, (operation, device)
    assert terminal_name(PTS_3) == "char:136:3"
    assert terminal_name(0) == ""


def test_no_device_is_made() -> None:
    for mode, expected in (("0o20666", "-never-make-device"), ("0o60660", "-never-make-device"), ("0o10644", "")):
        assert rule("file.mknod", "/work/x", mode=mode) == expected
    assert rule("file.mknod", "/work/x") == "-never-make-device"  # a mode that is not known


def test_the_envelope() -> None:
    assert rule("file.write", "/usr/lib/x") == "-envelope"
    assert rule("file.read", "/usr/lib/x") == ""
    assert rule("file.read", "/etc/passwd") == "-envelope"
    assert rule("process.exec", "/work/x") == "-envelope"
    assert rule("process.exec", "/usr/bin/x") == ""
    assert rule("file.write", "/workx") == "-envelope"
    assert rule("file.rename", "/work/x", "/etc/x") == "-envelope"
    assert rule("file.rename", "/etc/x", "/work/x") == "-envelope"
    assert rule("file.link", "/usr/x", "/work/x") == "-envelope"  # the link makes it writable by another name
    assert rule("file.rename", "/work/x", "/work/y") == ""
    assert rule("file.symlink", "/work/link", "/etc/passwd") == ""  # what goes through it is judged when it does
    assert rule("net.bind", "unix:/etc/sock") == "-envelope"
    assert rule("net.connect", "tcp:1.2.3.4:5") == ""


def test_what_is_protected() -> None:
    who = acting(profile(protected=["/work/secret", "${home}/.ssh"], free=[{"operations": ["file.read"], "on": "/**"}]))
    assert rule("file.read", "/work/secret/key", who=who) == "-protected"
    assert rule("file.read", "/work/secret", who=who) == "-protected"
    assert rule("file.read", "/work/secrets", who=who) == "+free"
    assert rule("file.rename", "/work/secret", "/work/x", who=who) == "-protected"
    assert rule("file.link", "/work/secret/key", "/work/x", who=who) == "-protected"


def test_scratch_is_free() -> None:
    for operation in Operation:
        if operation.startswith("file.") and operation not in (Operation.FILE_RENAME, Operation.FILE_LINK):
            expected = "+scratch" if operation is not Operation.FILE_MKNOD else "-never-make-device"
            assert rule(operation, f"{SCRATCH}/x") == expected
    assert rule("file.rename", f"{SCRATCH}/x", f"{SCRATCH}/y") == "+scratch"
    assert rule("file.rename", f"{SCRATCH}/x", "/work/y") == ""
    assert rule("file.write", f"{SCRATCH}2/x") != "+scratch"
    for operation in ("net.bind", "net.listen", "net.connect"):
        assert rule(operation, f"unix:{SCRATCH}/sock") == "+scratch"


def test_what_runs_free_and_what_a_lease_covers() -> None:
    free = [
        {"operations": ["file.write"], "on": "${cwd}/a/**"},
        {"operations": ["net.connect"], "on": "tcp:127.0.0.1:*"},
    ]
    who = acting(profile(free=free))
    assert rule("file.write", "/work/a/x", who=who) == "+free"
    assert rule("file.create", "/work/a/x", who=who) == ""
    assert rule("file.write", "/work/b", who=who) == ""
    assert rule("net.connect", "tcp:127.0.0.1:80", who=who) == "+free"
    assert rule("net.connect", "tcp:127.0.0.2:80", who=who) == ""
    who.ledger.add(Lease(frozenset({Operation.FILE_WRITE}), Pattern.parse("/work/b"), 1, 60, "v1"), "the-verdicts-rule")
    assert [rule("file.write", "/work/b", who=who) for _ in range(2)] == ["+the-verdicts-rule", ""]


def test_a_child_is_bound_by_every_profile_above_it() -> None:
    free = [{"operations": ["file.write"], "on": "/work/**"}]
    wide, closed = profile("wide", free=free), profile("closed")
    narrow = profile("narrow", free=free, envelope={"read": ["/work"], "write": ["/work/a"], "execute": []})
    kept = profile("kept", free=free, protected=["/work/a/key"])
    assert rule("file.write", "/work/a/x", who=acting(wide)) == "+free"
    assert rule("file.write", "/work/a/x", who=acting(closed, wide)) == ""
    assert rule("file.write", "/work/b", who=acting(narrow, wide)) == "-envelope"
    assert rule("file.write", "/work/b", who=acting(wide, narrow)) == "-envelope"
    assert rule("file.write", "/work/a/key", who=acting(kept, wide)) == "-protected"
    assert rule("file.write", "/work/a/x", who=acting(kept, narrow, wide)) == "+free"
