"""From what a launcher asks for to what its child has to do to become a sandbox."""

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass

from governed.v1 import control_pb2 as pb
from governed_mcpd.kernel import calls
from governed_mcpd.kernel.borrow import borrowed
from governed_mcpd.nouns.subject import Subject, Tier
from governed_mcpd.policy.documents import Agent, Profile
from governed_mcpd.policy.load import PolicySet
from governed_mcpd.subjects import environment, rules
from governed_mcpd.subjects.peers import Peer

MAX_TASK = 16384
MAX_WORDS_BYTES = 1 << 20  # what is judged of a command line when it is executed: pause/memory
_TIERS = {"Classic": Tier.CLASSIC, "AiEnhanced": Tier.AI_ENHANCED, "AiNative": Tier.AI_NATIVE, "System": Tier.SYSTEM}


class Refused(Exception):
    """The request cannot be met. `code` is stable, the text says what was wrong and what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Request:
    """A RunRequest whose fields were looked at."""

    agent: Agent
    profile: Profile
    places: rules.Places
    task: str
    argv: tuple[bytes, ...]
    server: str
    environment: tuple[bytes, ...]  # names only


def read(
    policies: PolicySet, peer: Peer, message: pb.RunRequest, scratch: str, outer: rules.Places | None = None
) -> Request:
    """The request of a peer, as far as policy lets it have agent and profile; `outer` are the places of the Subject
    above, whose home a child Subject has. Refused."""
    name = message.agent or "default"
    agent = policies.agents.get(name)
    if agent is None:
        raise Refused("unknown-agent", f"there is no agent {name!r}: expected one of {_names(policies.agents)}")
    if agent.users and peer.uid != 0 and _user_name(peer.uid) not in agent.users:
        raise Refused("agent-not-yours", f"agent {name!r} may not be run by {_user_name(peer.uid)}")
    profile_name = message.profile or agent.profiles[0]
    if profile_name not in agent.profiles:
        raise Refused(
            "profile-not-agents",
            f"agent {name!r} may not run under profile {profile_name!r}: expected one of {_names(agent.profiles)}",
        )
    if not message.argv:
        raise Refused("bad-request", "argv is empty: name a command to run")
    sizes = {"argv": message.argv, "environment": message.environment}
    for field, words in sizes.items():
        if (size := sum(map(len, words)) + len(words)) > MAX_WORDS_BYTES:
            raise Refused("bad-request", f"{field} has {size} bytes: at most {MAX_WORDS_BYTES} are taken")
        if any(b"\0" in word for word in words):
            raise Refused("bad-request", f"a word of {field} has a NUL byte: no program can be given one")
    if len(message.task) > MAX_TASK:
        raise Refused("bad-request", f"the task has {len(message.task)} characters: at most {MAX_TASK} are taken")
    return Request(
        agent=agent,
        profile=policies.profiles[profile_name],
        places=rules.Places(
            _directory(peer, message.cwd, "cwd"),
            outer.home if outer is not None else _home(peer, message.home, scratch),
            scratch,
        ),
        task=message.task,
        argv=tuple(message.argv),
        server=message.server[:128],
        environment=tuple(message.environment),
    )


def subject_of(request: Request, identity: str, uid: int, parent: str = "") -> Subject:
    """Who acts, when it is run."""
    return Subject(
        agent=request.agent.name,
        tier=_TIERS[request.agent.tier],
        sandbox=identity,
        uid=uid,
        profile=request.profile.name,
        server=request.server,
        parent=parent,
    )


def message_of(
    identity: str, token: str, own: rules.Rules, request: Request, envelope: pb.Envelope, runtime_dir: str
) -> pb.RunPlan:
    """What the child is told; the filter is the sandbox's own matter."""
    variables = {
        "TMPDIR": own.places.scratch,
        "GOVERNED_SANDBOX": identity,
        "GOVERNED_RUNTIME_DIR": runtime_dir,
    }
    return pb.RunPlan(
        sandbox=identity,
        token=token,
        envelope=envelope,
        scratch=os.fsencode(own.places.scratch),
        drop_environment=environment.dropped(request.environment, request.profile.environment),
        set_environment=[
            pb.Variable(name=name.encode(), value=os.fsencode(value)) for name, value in variables.items()
        ],
        # A core dump switches credentials and writes where the sandbox may not (SEAL: overlayfs's inner opens).
        limits=[pb.Limit(resource="core", soft=0, hard=0)],
    )


def _directory(peer: Peer, path: bytes, what: str) -> str:
    """The canonical name of a directory, as the peer itself gets there. What it may not search and what is not there
    are refused alike: the daemon is root, and its answer must not tell the one from the other."""
    text = os.fsdecode(path)
    if not text.startswith("/") or "\0" in text or len(path) > 4096:
        raise Refused("bad-request", f"{what} is {text[:200]!r}: expected an absolute path")
    try:
        with borrowed(peer.credentials):
            # With "/." the directory itself has to be searchable. No magic links: /proc/self would be the daemon's.
            opened = calls.openat2(-1, path + b"/.", os.O_PATH | os.O_DIRECTORY, calls.RESOLVE_NO_MAGICLINKS)
    except OSError:
        reason = f"{what} is {text[:200]!r}: there is no such directory, or uid {peer.uid} may not enter it"
        raise Refused("no-directory", f"{reason}: choose a directory of yours") from None
    try:
        return os.readlink(f"/proc/self/fd/{opened}")
    finally:
        os.close(opened)


def _home(peer: Peer, path: bytes, scratch: str) -> str:
    """The home directory. Users of services have none that is there (/nonexistent), and may run commands all the same:
    what a profile says of the home then means the scratch directory."""
    try:
        return _directory(peer, path, "home")
    except Refused as refused:
        if refused.code != "no-directory":
            raise
        return scratch


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
