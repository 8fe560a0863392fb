"""What the daemon decides by itself, before and without the gate: the never-list, the Envelope, protected subtrees,
what runs free, and leases. In this order; the first that has an answer gives it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from governed_mcpd.kernel import procfs
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import FILE_CHANGES, NETWORK, Operation
from governed_mcpd.nouns.pattern import split_endpoint
from governed_mcpd.nouns.verdict import Verdict, allow, deny
from governed_mcpd.pause.call import LED
from governed_mcpd.subjects.inflight import Tie
from governed_mcpd.subjects.leases import Held
from governed_mcpd.subjects.names import spellings
from governed_mcpd.subjects.rules import Rules, Tree
from governed_mcpd.subjects.sandbox import Acting, Sandbox

DAEMON = "daemon"
UNSPECIFIED = "unspecified"  # pause/network: connect with AF_UNSPEC
# DNS over TLS and over QUIC (RFC 7858, 9250), multicast DNS (RFC 6762), LLMNR (RFC 4795), NetBIOS names (RFC 1002).
_DNS_PORTS = frozenset({"853", "5353", "5355", "137"})
# nscd(8) and its kin, systemd-resolved.service(8) (varlink), avahi-daemon(8). libc goes on without them.
_NAME_SERVICES = (
    "/run/nscd/", "/var/run/nscd/", "/run/systemd/resolve/", "/run/avahi-daemon/", "/var/run/avahi-daemon/",
)  # fmt: skip
_SENDS = frozenset({Operation.NET_CONNECT, Operation.NET_SEND})

# Documentation/admin-guide/devices.txt: /dev/null, zero, full, random, urandom
_SINKS = frozenset({"char:1:3", "char:1:5", "char:1:7", "char:1:8", "char:1:9"})
_CONTROLLING = "char:5:0"  # /dev/tty: the caller's own
_MULTIPLEXER = "char:5:2"  # /dev/ptmx: a new pseudo-terminal
_TERMINALS = ("char:4:", *(f"char:{major}:" for major in range(136, 144)))
_MEMORY = "char:1:"  # the rest of major 1: /dev/mem, kmem, port, kmsg


class Terminals(Protocol):
    """Who knows which pseudo-terminals a sandbox has made."""

    def made_by(self, sandbox: Sandbox, device: str) -> bool:
        """Whether a process of the sandbox holds the other end."""


class Processes(Protocol):
    """Who knows the processes of governed-mcpd itself."""

    def reached(self, effect: SideEffect) -> bool:
        """Whether a signal reaches one of them."""


class Judge:
    """`never` covers the daemon's own files, `cgroups` the mounts of cgroup v2, `sockets` and `processes` its own;
    `asking` is the one socket of its own that is there for sandboxes, which ask on it for a child Subject."""

    def __init__(
        self,
        never: Iterable[str],
        cgroups: Iterable[str],
        sockets: Iterable[str],
        terminals: Terminals,
        processes: Processes,
        asking: str = "",
    ) -> None:
        self._never = Tree(never)
        self._cgroups = Tree(cgroups)
        self._sockets = frozenset(sockets)
        self._terminals = terminals
        self._processes = processes
        self._asking = asking

    def verdict(
        self, sandbox: Sandbox, acting: Acting, effect: SideEffect, policy_version: str, tie: Tie | None = None
    ) -> Verdict | None:
        """The daemon's own answer; None when the gate has to be asked. `tie`: how the effect stands to the tool calls
        in flight, where there are any."""
        held = self.judged(acting, effect, policy_version)
        if held is not None:
            return held.verdict
        refusal = self.refusal(sandbox, acting, effect, policy_version)
        if refusal is not None:
            return refusal
        free = self._free(sandbox, acting.rules, effect)
        if free is not None:
            return replace(free, policy_version=policy_version)
        contracted = acting.inflight.verdict(effect, tie, policy_version, acting.rules)
        if contracted is not None:
            return contracted
        held = acting.ledger.use_any(spellings(effect, acting.rules), policy_version)
        return held.verdict if held is not None else None

    def judged(self, acting: Acting, effect: SideEffect, policy_version: str) -> Held | None:
        """The lease that was given for this very effect, one use of it spent. It goes before everything else, since it
        is what most effects have: all the rest was asked when the effect was judged, under the same policy version."""
        return None if "device" in effect.details else acting.ledger.judged(effect, policy_version)

    def refusal(self, sandbox: Sandbox, acting: Acting, effect: SideEffect, policy_version: str) -> Verdict | None:
        """What nobody can approve."""
        found = self._never_list(sandbox, effect) or _bounds(acting.rules, effect)
        return found and replace(found, policy_version=policy_version)

    def _never_list(self, sandbox: Sandbox, effect: SideEffect) -> Verdict | None:
        for name in _file_objects(effect):
            if self._never.covers(name) and not _in_scratch(sandbox, name):
                return deny(DAEMON, "never-own-files", "this belongs to governed-mcpd itself")
            if effect.operation is Operation.FILE_RENAME and self._never.lies_beneath(name):
                return deny(DAEMON, "never-own-files", "what belongs to governed-mcpd itself lies beneath this")
            if effect.operation in FILE_CHANGES and self._cgroups.covers(name):
                return deny(DAEMON, "never-cgroups", "a sandbox is a cgroup: whoever writes there can leave it")
        elsewhere = _other_resolution(effect)
        if elsewhere is not None:
            return elsewhere
        if effect.object in self._sockets:
            return deny(DAEMON, "never-own-sockets", "a sandbox does not speak to governed-mcpd or its gate")
        if effect.operation is Operation.PROCESS_SIGNAL and self._processes.reached(effect):
            return deny(DAEMON, "never-own-processes", "a sandbox does not signal governed-mcpd or its gate")
        device = effect.details.get("device", "")
        if device.startswith("block:"):
            return deny(DAEMON, "never-block-device", "a block device is written past its file system")
        if device.startswith(_MEMORY) and device not in _SINKS:
            return deny(DAEMON, "never-memory-device", "this device is the machine's memory or its log")
        if effect.operation is Operation.FILE_MKNOD and _makes_device(effect):
            return deny(DAEMON, "never-make-device", "a device node is a way past every path")
        if effect.operation is Operation.PROCESS_SIGNAL and effect.object == "process:-1":
            return deny(DAEMON, "never-signal-all", "a signal to every process reaches past the sandbox")
        return None

    def _free(self, sandbox: Sandbox, chain: tuple[Rules, ...], effect: SideEffect) -> Verdict | None:
        device = effect.details.get("device", "")
        if device:
            return self._device(sandbox, device, effect)
        names = _file_objects(effect)
        places = names or (effect.object.removeprefix("unix:"),)  # a socket that lies there is a file as well
        # A program that was copied there is still that program: what it is run with is the gate's to judge.
        if effect.operation is not Operation.PROCESS_EXEC and all(_in_scratch(sandbox, place) for place in places):
            return allow(DAEMON, "scratch", "the sandbox's own scratch directory")
        if effect.object == UNSPECIFIED:
            return allow(DAEMON, "dissolves", "AF_UNSPEC dissolves an association and leads nowhere")
        if effect.operation is Operation.NET_CONNECT and effect.object == self._asking:
            return allow(DAEMON, "child-subject", "governed-mcpd answers here whoever asks for less")
        if effect.operation in NETWORK:
            return _free_endpoint(chain, effect)
        names = names or (effect.object,)
        if all(rules.runs_free(effect.operation, name) for rules in chain for name in names):
            return allow(DAEMON, "free", f"profile {chain[-1].profile} lets this run free")
        return None

    def _device(self, sandbox: Sandbox, device: str, effect: SideEffect) -> Verdict | None:
        if effect.operation not in (Operation.FILE_WRITE, Operation.FILE_READ):
            return None
        if device == _MULTIPLEXER:
            sandbox.made_terminals = True
        if device in _SINKS or device == _MULTIPLEXER:
            return allow(DAEMON, "device", "a device without memory")
        if device.startswith(_TERMINALS) or device == _CONTROLLING:
            if device == _CONTROLLING or device == terminal_name(sandbox.terminal):
                return allow(DAEMON, "terminal", "its own controlling terminal")
            if self._terminals.made_by(sandbox, device):
                return allow(DAEMON, "terminal", "a pseudo-terminal that this sandbox made")
            return deny(DAEMON, "foreign-terminal", "another terminal: what is typed there can be read and forged")
        return None


def keep_lease(acting: Acting, effect: SideEffect, verdict: Verdict, tie: Tie | None, policy_version: str) -> None:
    """Takes the lease of an approval, within the ceiling of every profile, unless what it was approved for is over."""
    lease = verdict.lease
    if tie is not None and tie.calls != tuple(acting.inflight.calls):
        return  # it was approved for calls of which one is over, or another has come
    for rules in acting.rules:
        lease = rules.cut(lease) if lease is not None else None
    if lease is not None and lease.policy_version == policy_version:
        acting.ledger.add(lease, verdict.rule, judged=effect)


def _free_endpoint(chain: tuple[Rules, ...], effect: SideEffect) -> Verdict | None:
    if effect.details.get("dns") == LED:
        return allow(DAEMON, "dns", "the kernel leads it to governed-resolver, which asks for each name")
    for spelled in spellings(effect, chain):
        if all(rules.runs_free(effect.operation, spelled.object) for rules in chain):
            return allow(DAEMON, "free", f"profile {chain[-1].profile} lets this run free")
    return None


def _other_resolution(effect: SideEffect) -> Verdict | None:
    """Names are looked up through governed-resolver and nowhere else, or they would be neither judged nor known."""
    if effect.operation not in _SENDS:
        return None
    if effect.object.startswith("unix:"):
        path = effect.object.removeprefix("unix:")
        if path.startswith(_NAME_SERVICES):
            return deny(DAEMON, "dns-elsewhere", "a program outside the sandbox looks up names for whoever asks there")
        return None
    dns = effect.details.get("dns", "")
    if dns and dns != LED:
        return deny(DAEMON, "dns-elsewhere", f"names are looked up through governed-resolver only; {dns}")
    parts = split_endpoint(effect.object)
    if parts is not None and parts[2] in _DNS_PORTS:
        reason = f"port {parts[2]} is for looking up names, which goes through governed-resolver only"
        return deny(DAEMON, "dns-elsewhere", reason)
    return None


def _bounds(chain: tuple[Rules, ...], effect: SideEffect) -> Verdict | None:
    names = (*_file_objects(effect), *_interpreters(effect))
    if not names:
        return None
    for rules in chain:
        for name in names:
            if rules.protected.covers(name):
                return deny(DAEMON, "protected", f"{name} is protected by profile {rules.profile}")
            if not _envelope(rules, effect.operation).covers(name):
                return deny(DAEMON, "envelope", f"{name} lies outside the envelope of profile {rules.profile}")
        if effect.operation in (Operation.FILE_RENAME, Operation.FILE_SYMLINK):
            refusal = _redirection(rules, effect)
            if refusal is not None:
                return refusal
    return None


def _redirection(rules: Rules, effect: SideEffect) -> Verdict | None:
    """Names of the profile that would lead elsewhere afterwards: a directory above them is moved away, or a symlink
    takes their place, before what is protected is there."""
    links = effect.operation is Operation.FILE_SYMLINK or "symlink" in effect.details.get("moves", "")
    names = (effect.object, effect.second) if effect.operation is Operation.FILE_RENAME else (effect.object,)
    for name in names:
        if rules.protected.lies_beneath(name):
            return deny(DAEMON, "protected", f"something beneath {name} is protected by profile {rules.profile}")
        if rules.roots.lies_beneath(name) or (links and rules.roots.holds(name)):
            return deny(DAEMON, "envelope-root", f"{name} leads to where the envelope of {rules.profile} begins")
    return None


def _envelope(rules: Rules, operation: Operation) -> Tree:
    if operation in FILE_CHANGES:
        return rules.write
    return rules.execute if operation is Operation.PROCESS_EXEC else rules.read


def _file_objects(effect: SideEffect) -> tuple[str, ...]:
    """The paths that the effect touches. A symlink's target text is not one: what goes through the link is resolved."""
    if effect.operation in (Operation.FILE_RENAME, Operation.FILE_LINK):
        return effect.object, effect.second
    if effect.object.startswith("/"):
        return (effect.object,)
    if effect.operation is Operation.NET_BIND and effect.object.startswith("unix:/"):
        return (effect.object.removeprefix("unix:"),)
    return ()


def _interpreters(effect: SideEffect) -> list[str]:
    """What a script is run by (pause/processes): within bounds as well, or a script would be a way around them."""
    if effect.operation is not Operation.PROCESS_EXEC:
        return []
    return [path for name, path in effect.details.items() if name.startswith("interpreter")]


def _in_scratch(sandbox: Sandbox, name: str) -> bool:
    return name == sandbox.scratch or name.startswith(sandbox.scratch + "/")


def _makes_device(effect: SideEffect) -> bool:
    kind = int(effect.details.get("mode", "0o60000"), 8) & 0o170000
    return kind in (0o020000, 0o060000)


def terminal_name(device: int) -> str:
    """`char:MAJOR:MINOR` of a tty_nr of /proc/PID/stat; empty when there is no terminal."""
    major, minor = procfs.device_numbers(device)
    return f"char:{major}:{minor}" if device else ""
