"""The daemon: puts the rooms together, says that it is ready, and stops in order."""

import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pyseccomp

from governed_mcpd import __version__, config
from governed_mcpd.calls.pins import Pins
from governed_mcpd.calls.session import Surroundings
from governed_mcpd.calls.sessions import Sessions
from governed_mcpd.grant.seal import Seal
from governed_mcpd.journal.errors import JournalError
from governed_mcpd.journal.journal import Journal
from governed_mcpd.journal.mirror import systemd_mirror
from governed_mcpd.kernel import calls
from governed_mcpd.kernel.cgroup import Cgroup, NoCgroup, find, mounts
from governed_mcpd.names import redirect as redirects
from governed_mcpd.names.link import SOCKET, Link
from governed_mcpd.names.lookups import Lookups
from governed_mcpd.names.lookups import Surroundings as LookupSurroundings
from governed_mcpd.names.redirect import Redirect
from governed_mcpd.policy.load import PolicyError
from governed_mcpd.policy.store import StoreError
from governed_mcpd.sandbox import filter as filters
from governed_mcpd.sandbox.table import held_names
from governed_mcpd.service import exits, seals
from governed_mcpd.service.life import Life
from governed_mcpd.service.policies import Policies
from governed_mcpd.service.requests import Requests
from governed_mcpd.service.server import SANDBOX_SOCKET, Server
from governed_mcpd.service.trial import Trial
from governed_mcpd.subjects import keep, manager, units
from governed_mcpd.subjects.cells import Beneath, Cells, Scopes
from governed_mcpd.subjects.sandbox import Sandbox
from governed_mcpd.subjects.sandboxes import Kernel, Sandboxes
from governed_mcpd.subjects.terminals import SandboxTerminals
from governed_mcpd.supervisor.decide import Decider
from governed_mcpd.supervisor.digests import Digests
from governed_mcpd.supervisor.events import SealEvents
from governed_mcpd.supervisor.gate import Gate
from governed_mcpd.supervisor.judge import Judge
from governed_mcpd.supervisor.lanes import Worker
from governed_mcpd.supervisor.own import OwnProcesses
from governed_mcpd.supervisor.questions import Questions
from governed_mcpd.supervisor.records import Recorder
from governed_mcpd.supervisor.short import ShortWay

log = logging.getLogger("governed-mcpd")
GATE_SOCKET = "gate.sock"
STOPPED = "the daemon stopped"


class CannotStart(Exception):
    """Says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """Everything that has to be closed again."""

    server: Server
    life: Life
    worker: Worker
    journal: Journal
    gate: Gate
    recorder: Recorder


def run(settings: config.Config, choose: Callable[[config.Config], Seal] | None = None) -> int:
    """Until it is told to stop; then the exit status, if it could not start. `choose` says which seal there is."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        daemon = start(settings, _seal(settings, choose or seals.choose))
    except (
        CannotStart,
        seals.NotSealed,
        NoCgroup,
        JournalError,
        StoreError,
        PolicyError,
        config.ConfigError,
        OSError,
    ) as error:
        print(f"governed-mcpd: {error}", file=sys.stderr)
        return exits.CONFIG if isinstance(error, _CONFIGURATION) else exits.START
    manager.ready(f"seal: {daemon.life.seal.name}")
    beat = manager.watchdog_seconds()
    # A signal that comes just before a wait begins would be seen only when it ends: so none is long.
    while not stop.wait(min(beat, 1.0)):
        # The watchdog is fed through the loop: a loop that stands still is what it is there for.
        daemon.worker.ask(manager.alive)
    manager.stopping()
    if isinstance(daemon.life.sandboxes.cells, Scopes) and units.job() == units.RESTART:
        _leave(daemon)
    else:
        _stop(daemon)
    # Threads that wait for a file system that never answers do not keep the daemon from ending.
    os._exit(0)


_CONFIGURATION = (CannotStart, seals.NotSealed, PolicyError, config.ConfigError)


def start(settings: config.Config, seal: Seal) -> Daemon:
    """Brings everything up, or raises and leaves nothing running that matters."""
    _raise_descriptor_limit()
    groups = (config.gid_of(settings.group), config.gid_of(settings.admin_group))
    _make_directories(settings)
    journal = Journal(settings.state_dir, mirror=systemd_mirror())
    names = _held_numbers()
    worker = Worker(names, sealed=seal.name != "none")
    gate = Gate(os.path.join(settings.runtime_dir, GATE_SOCKET), worker.post)
    policies = Policies(settings.state_dir, settings.policy_dir, gate)
    sandboxes = Sandboxes(
        _cells(settings),
        settings.runtime_dir,
        settings.state_dir,
        _kernel(),
        lambda: policies.active,
        seal,
    )
    taken_over = _take_over(sandboxes)
    left = sandboxes.clean_up()
    if left:
        log.warning("%d sandboxes of an earlier daemon could not be supervised any more, and were ended", left)
    life = Life(sandboxes, seal)
    recorder = Recorder(journal, life.exhausted)
    judge = Judge(
        never=_never(settings),
        cgroups=mounts(),
        sockets=_own_sockets(settings),
        terminals=SandboxTerminals(),
        processes=OwnProcesses(*(os.path.join(settings.runtime_dir, name) for name in (GATE_SOCKET, SOCKET))),
        asking=f"unix:{os.path.realpath(settings.runtime_dir)}/{SANDBOX_SOCKET}",
    )
    questions = Questions(gate, recorder)
    decider = Decider(judge, questions, recorder, seal, Digests(worker))
    events = SealEvents(seal, recorder, sandboxes.get)
    trial = _tried(seal, events, settings.runtime_dir, lambda: worker.ask(events.take))
    life.decider, life.recorder, life.events = decider, recorder, events
    life.short = decider.short = ShortWay(names, journal, recorder, questions, sealed=seal.name != "none")
    link = Link(settings.runtime_dir, _resolver_uid(settings), worker.post)
    around_lookups = LookupSurroundings(
        judge=judge,
        gate=gate,
        recorder=recorder,
        worker=worker,
        policy_version=lambda: decider.policy_version,
        person_seconds=lambda: questions.person_seconds,
        seal=seal.name,
    )
    life.lookups = Lookups(around_lookups, _redirect(), link)
    sandboxes.adopted = life.lookups.attach
    sandboxes.released = lambda sandbox: life.lookups.redirect.detach(sandbox.id)
    if seal.events() >= 0:
        worker.watch(seal.events(), events.take)
        sandboxes.before_release = lambda: worker.ask(events.take)
    questions.worker = decider.worker = life.worker = worker
    worker.listening = life
    policies.on_change = life.policy_changed
    life.use(policies.active)
    journal.append(
        {
            "kind": "daemon.start",
            "version": __version__,
            "seal": seal.name,
            "seal_reason": seal.reason,
            "policy_version": policies.active.version,
        }
    )
    for sandbox in taken_over:
        life.resume(sandbox)
    worker.start()
    worker.post(life.tick)
    link.start()
    around = Surroundings(
        gate=gate,
        worker=worker,
        recorder=recorder,
        policies=lambda: policies.active,
        person_seconds=lambda: questions.person_seconds,
        seal=seal.name,
    )
    sessions = Sessions(around, sandboxes, Pins(settings.state_dir))
    life.exhausted_elsewhere = sessions.exhausted
    requests = Requests(
        groups=groups,
        sandboxes=sandboxes,
        life=life,
        policies=policies,
        gate=gate,
        journal=journal,
        state_dir=settings.state_dir,
        trial=trial,
        sessions=sessions,
    )
    server = Server(settings.runtime_dir, groups[0], sandboxes.cells.all, requests)
    server.start()
    log.info("ready: seal %s, policy %s", seal.name, policies.active.version[:12])
    return Daemon(server, life, worker, journal, gate, recorder)


def _tried(seal: Seal, events: SealEvents, runtime_dir: str, take: Callable[[], None]) -> Trial | None:
    """The seal has refused something, or there is no start; None where there is none."""
    if seal.name != seals.LSM:
        return None
    failed = [finding for finding in Trial(seal, events, runtime_dir, events.take).attempt() if not finding.works]
    if failed:
        said = "; ".join(f"{finding.feature}: {finding.detail}" for finding in failed)
        raise CannotStart(f"the seal is loaded and does not do its work: {said}. {failed[0].remedy}")
    return Trial(seal, events, runtime_dir, take)


def _take_over(sandboxes: Sandboxes) -> list[Sandbox]:
    """Sandboxes that systemd kept while no daemon ran. Those that cannot be used are ended by clean_up."""
    taken = []
    for identity, kept in keep.left().items():
        try:
            taken.append(sandboxes.take_over(identity, kept))
        except keep.NotTakenOver as failure:
            log.warning("sandbox %s is not taken over: %s", identity, failure)
    return taken


def _stop(daemon: Daemon) -> None:
    daemon.server.refuse()
    daemon.life.end_all(STOPPED)
    daemon.server.close()
    daemon.life.end_all(STOPPED)  # one that was planned in between
    daemon.life.sandboxes.cells.close()
    _close(daemon, "it was told to")


def _leave(daemon: Daemon) -> None:
    """Makes room for the next daemon, which systemd hands the sandboxes to."""
    daemon.server.refuse()
    left = daemon.life.stay()
    daemon.server.close()
    log.info("%d sandboxes go on without a daemon", left)
    _close(daemon, f"it is restarted; {left} sandboxes go on")


def _close(daemon: Daemon, reason: str) -> None:
    try:
        daemon.worker.ask(daemon.recorder.stop)
        daemon.journal.append({"kind": "daemon.stop", "reason": reason})
        daemon.worker.stop()
        daemon.journal.close()
    except JournalError as error:
        log.error("the journal could not be closed in order: %s", error)
    daemon.life.lookups.link.stop()
    daemon.gate.close()


def _seal(settings: config.Config, choose: Callable[[config.Config], Seal]) -> Seal:
    if os.geteuid() != 0:
        raise CannotStart("governed-mcpd supervises other users' processes: start it as root")
    return choose(settings)


def _raise_descriptor_limit() -> None:
    """Each sandbox takes about six descriptors, each connection one; the usual soft limit is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _make_directories(settings: config.Config) -> None:
    os.makedirs(settings.runtime_dir, mode=0o755, exist_ok=True)
    os.makedirs(os.path.dirname(settings.state_dir) or "/", mode=0o755, exist_ok=True)


def _cells(settings: config.Config) -> Cells:
    """Under systemd sandboxes outlive a daemon that is restarted; elsewhere nothing would take them over."""
    return Scopes(find()) if units.governs() else Beneath(find(), settings.runtime_dir)


def _redirect() -> Redirect:
    """Leads DNS of sandboxes to governed-resolver, or says why not: then it is refused."""
    hierarchy = find()
    made = redirects.tried(redirects.load(), Cgroup(hierarchy, hierarchy.own).child)
    if made.reason:
        log.warning("DNS of sandboxes is refused: %s", made.reason)
    return made


def _resolver_uid(settings: config.Config) -> int | None:
    try:
        return config.uid_of(settings.resolver_user)
    except config.ConfigError as error:
        log.warning("no names are looked up: %s", error)
        return None


def _kernel() -> Kernel:
    return Kernel(
        filter=filters.compile_filter(reads_pause=False),
        filter_reads=filters.compile_filter(reads_pause=True),
        # Not WAIT_KILLABLE_RECV: a person may take ten minutes to answer, and ^C has to end the waiting. A call that a
        # signal interrupts comes again (SA_RESTART) and joins its own question. (On some 6.12 kernels the flag kills.)
        filter_flags=0,
    )


def _held_numbers() -> dict[int, str]:
    """The numbers of the held calls on this architecture."""
    token = pyseccomp.system_arch()
    numbers = {name: filters.number(name, token, calls.MACHINE) for name in held_names()}
    return {number: name for name, number in numbers.items() if number is not None}


def _never(settings: config.Config) -> list[str]:
    directories = (settings.runtime_dir, settings.state_dir, settings.policy_dir, os.path.dirname(config.DEFAULT_FILE))
    return [os.path.realpath(directory) for directory in directories]


def _own_sockets(settings: config.Config) -> list[str]:
    runtime = os.path.realpath(settings.runtime_dir)
    return [
        f"unix:{runtime}/{name}"
        for name in ("control.sock", GATE_SOCKET, f"gate/{GATE_SOCKET}", SOCKET, f"resolver/{SOCKET}")
    ]
