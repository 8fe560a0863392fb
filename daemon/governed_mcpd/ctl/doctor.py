"""`doctor`: what governed-mcpd needs here, whether it works, and how to mend what does not.

One table of {feature, probe, remedy}. What only the daemon can try (BPF LSM programs need its privileges), it reports.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import typer

from governed.v1 import control_pb2 as pb
from governed_mcpd.config import Config, ConfigError, gid_of
from governed_mcpd.control.client import ControlError, connect
from governed_mcpd.ctl import probes
from governed_mcpd.ctl.output import Exit, print_json, print_table
from governed_mcpd.ctl.probes import Outcome
from governed_mcpd.ctl.session import Json, session_of
from governed_mcpd.kernel import lsm

# sd_journal_print(3) writes there; without the socket, messages are lost without an error
JOURNALD = "/run/systemd/journal/socket"
SEAL = "bpf-lsm"
_STATES = {True: "ok", False: "FAILED", None: "unknown"}


@dataclass(frozen=True, slots=True)
class Feature:
    """One line of the report: what was found, and what to do if it does not work. Without `required`, only a loss."""

    name: str
    outcome: Outcome
    required: bool
    remedy: str


@dataclass(frozen=True, slots=True)
class _Kernel:
    name: str
    probe: Callable[[], str]
    required: bool
    remedy: str


KERNEL = (
    _Kernel(
        "seccomp-user-notification",
        probes.user_notification,
        True,
        "Linux 5.5 or newer with CONFIG_SECCOMP_FILTER; inside a container, its own seccomp profile has to allow "
        "seccomp(2) with a listener, and no other supervisor may be in place",
    ),
    _Kernel(
        "seccomp-wait-killable",
        probes.wait_killable,
        False,
        "Linux 5.19 or newer (some 6.12 kernels have it broken): without it, signals cause more EINTR",
    ),
    _Kernel(
        "landlock", probes.landlock, True, "Linux 5.13 or newer, with landlock in the lsm= list of the command line"
    ),
    _Kernel(
        "cgroup-v2",
        probes.cgroup_v2,
        True,
        "Linux 5.14 or newer with cgroup v2 mounted (mount -t cgroup2 none /sys/fs/cgroup), writable for the daemon",
    ),
    _Kernel(
        "pidfd-getfd", probes.pidfd_getfd, True, "Linux 5.6 or newer; inside a container, ptrace has to be allowed"
    ),
    _Kernel("openat2", probes.openat2, True, "Linux 5.6 or newer"),
)


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Try what governed-mcpd needs on this machine, and say how to mend what does not work."""
    found = list(_features(session_of(context).config()))
    failed = [feature for feature in found if feature.required and feature.outcome.works is False]
    if as_json:
        print_json({"ok": not failed, "features": [_plain(feature) for feature in found]})
    else:
        _show(found)
    if failed:
        raise typer.Exit(Exit.FAILED)


def _features(config: Config) -> Iterator[Feature]:
    import pyseccomp  # noqa: F401, PLC0415 - or each probe would have it found by ldconfig, in the ten seconds that it has

    for feature in KERNEL:
        yield Feature(feature.name, probes.in_child(feature.probe), feature.required, feature.remedy)
    yield _group("group", config.group, "may run sandboxes")
    yield _group("admin-group", config.admin_group, "may apply policy and approve")
    status = _status(config.runtime_dir)
    yield _socket(status)
    yield _gate(status)
    yield from _remotes(status)
    yield from _of_daemon(status, config)
    yield Feature(
        "journald",
        Outcome(os.path.exists(JOURNALD), JOURNALD if os.path.exists(JOURNALD) else f"{JOURNALD} does not exist"),
        False,
        "without it, checkpoints are only in the state directory: ship checkpoints.jsonl off the machine yourself",
    )


def _status(runtime_dir: str) -> pb.Status | ControlError:
    try:
        with connect(runtime_dir, timeout=10) as client:
            return client.ask(pb.ControlRequest(status=pb.StatusRequest(try_seal=True)), "status").status
    except ControlError as error:
        return error


def _socket(status: pb.Status | ControlError) -> Feature:
    if isinstance(status, ControlError):
        return Feature("daemon", Outcome(False, status.code), True, status.message)
    return Feature("daemon", Outcome(True, f"version {status.version}; journal {status.journal}"), True, "")


def _gate(status: pb.Status | ControlError) -> Feature:
    remedy = "start it (systemctl start governed-gate) and see its log; until then everything is refused"
    if isinstance(status, ControlError):
        return Feature("gate", Outcome(None, "only the daemon can say"), True, "start the daemon first")
    serving = status.gate == "serving"
    return Feature("gate", Outcome(serving, status.gate_reason or f"{status.gate} {status.backend}"), True, remedy)


def _remotes(status: pb.Status | ControlError) -> Iterator[Feature]:
    """Each remote gate. One that cannot be asked is no failure while another can."""
    remotes = [] if isinstance(status, ControlError) else status.remotes
    any_ready = any(remote.state == "ready" for remote in remotes)
    for remote in remotes:
        ready = remote.state == "ready"
        told = f"{remote.state} {remote.model}".strip() if ready else f"{remote.state}: {remote.reason}"
        remedy = "look at that gate, at the way to it and at both certificates (governedctl gate certs show)"
        yield Feature(f"gate {remote.address}", Outcome(ready, told), not any_ready, remedy)


def _of_daemon(status: pb.Status | ControlError, config: Config) -> Iterator[Feature]:
    """What the daemon tried itself. The seal is required unless the configuration says best-effort."""
    required = config.seal == "required"
    if isinstance(status, ControlError):
        lacking = lsm.missing()
        found = Outcome(False, lacking[0]) if lacking else Outcome(None, "only the daemon can try")
        yield Feature(SEAL, found, required, "; ".join(lacking) or "start the daemon first")
        return
    for probe in status.probes:
        yield Feature(probe.feature, Outcome(probe.works, probe.detail), required, probe.remedy)
    yield _names(status)


def _names(status: pb.Status) -> Feature:
    """Its cgroup programs were attached to a cgroup made for that when the daemon started."""
    remedy = (
        "until then DNS of sandboxes is refused: start the resolver (systemctl start governed-resolver) and see its "
        "log; the programs need Linux 5.11 or newer with CONFIG_CGROUP_BPF, and libbpf1"
    )
    detail = status.names_reason or "asks " + (" ".join(status.upstreams) or "nobody: /etc/resolv.conf names none")
    return Feature("names", Outcome(not status.names_reason, detail), False, remedy)


def _group(what: str, name: str, role: str) -> Feature:
    try:
        number = gid_of(name)
    except ConfigError as error:
        return Feature(what, Outcome(False, "there is no such group"), True, str(error))
    member = "you are in it" if number in {os.getegid(), *os.getgroups()} else "you are not in it"
    return Feature(what, Outcome(True, f"{name} ({number}) {role}; {member}"), True, "")


def _plain(feature: Feature) -> dict[str, object]:
    return {
        "feature": feature.name,
        "works": feature.outcome.works,
        "required": feature.required,
        "detail": feature.outcome.detail,
        "remedy": "" if feature.outcome.works else feature.remedy,
    }


def _show(found: list[Feature]) -> None:
    rows = []
    for feature in found:
        state = _STATES[feature.outcome.works]
        if feature.outcome.works is False and not feature.required:
            state = "absent"
        remedy = "" if feature.outcome.works else feature.remedy
        rows.append((feature.name, state, "required" if feature.required else "", feature.outcome.detail, remedy))
    print_table(("feature", "state", "", "found", "remedy"), rows)
