"""One sandbox's Profile with its paths filled in: what Landlock gets, and what the judge checks first."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.lease import Lease
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern
from governed_mcpd.policy.documents import Limits, OperationPattern, Profile


class Tree:
    """A set of paths, each with all that lies beneath it. Names that are asked for are canonical."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(dict.fromkeys(paths))
        self._exact = frozenset(self.paths)
        self._beneath = tuple(path.rstrip("/") + "/" for path in self.paths)

    def covers(self, name: str) -> bool:
        return name in self._exact or name.startswith(self._beneath)

    def holds(self, name: str) -> bool:
        """Whether `name` itself is one of the paths."""
        return name in self._exact

    def lies_beneath(self, name: str) -> bool:
        """Whether one of the paths lies beneath `name`: whoever moves `name` moves that, too."""
        above = name.rstrip("/") + "/"
        return any(path.startswith(above) and path != name for path in self.paths)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that a lease may cover."""

    operations: frozenset[Operation]
    pattern: Pattern
    uses: int
    seconds: int

    def cut(self, lease: Lease) -> Lease | None:
        """`lease` within this ceiling; None when its objects are not."""
        operations = lease.operations & self.operations
        if not operations or not lease.pattern.within(self.pattern):
            return None
        return Lease(
            operations,
            lease.pattern,
            min(lease.uses, self.uses),
            min(lease.seconds, self.seconds),
            lease.policy_version,
            lease.call,
        )


@dataclass(frozen=True, slots=True)
class Places:
    """What `${cwd}`, `${home}` and `${scratch}` mean for one sandbox; canonical."""

    cwd: str
    home: str
    scratch: str

    def as_tuple(self) -> tuple[str, str, str]:
        return self.cwd, self.home, self.scratch

    def within(self, outer: "Places") -> "Places":
        """What a child Subject's places are: its home, and what its directory may be, come from outside the sandbox, as
        the task does. The gate tells by them what a task may write, and which files a shell runs at its start."""
        return Places(self.cwd if Tree([outer.cwd]).covers(self.cwd) else outer.cwd, outer.home, outer.scratch)

    def expand(self, text: str) -> str:
        return text.replace("${cwd}", self.cwd).replace("${home}", self.home).replace("${scratch}", self.scratch)


@dataclass(frozen=True, slots=True)
class Rules:
    """What one Profile means in one sandbox. `roots` are the names that the envelope is written with: a symlink in the
    place of one would lead the next sandbox's envelope elsewhere."""

    profile: str
    places: Places
    terminal: str
    reads_pause: bool
    read: Tree
    write: Tree
    execute: Tree
    protected: Tree
    roots: Tree
    free: tuple[tuple[frozenset[Operation], Pattern], ...]
    ceiling: tuple[Ceiling, ...]
    durable: frozenset[Operation]
    limits: Limits

    def cut(self, lease: Lease) -> Lease | None:
        """The lease as far as this profile's ceiling lets it; None when nothing is left."""
        for ceiling in self.ceiling:
            cut = ceiling.cut(lease)
            if cut is not None:
                return cut
        return None

    def names_address(self, effect: SideEffect) -> bool:
        """Whether what runs free, or the ceiling, has the endpoint of an effect by its address."""
        entries = (*self.free, *((ceiling.operations, ceiling.pattern) for ceiling in self.ceiling))
        return any(
            effect.operation in operations and pattern.names_addresses() and pattern.matches(effect.object)
            for operations, pattern in entries
        )

    def runs_free(self, operation: Operation, name: str) -> bool:
        return any(operation in operations and pattern.matches(name) for operations, pattern in self.free)


def make(profile: Profile, places: Places, terminal: str = "") -> Rules:
    """Fills in the places; `terminal` is the path of the controlling terminal, which is always within the envelope."""
    own = [path for path in (places.scratch, terminal) if path]
    envelope = profile.envelope
    write = [*_canonical(envelope.write, places), *own]
    execute = _canonical(envelope.execute, places)
    return Rules(
        profile=profile.name,
        places=places,
        terminal=terminal,
        reads_pause=profile.reads == "pause",
        read=Tree([*_canonical(envelope.read, places), *write, *execute]),
        write=Tree(write),
        execute=Tree(execute),
        protected=Tree(_canonical(profile.protected, places, both=True)),
        roots=Tree(_canonical((*envelope.read, *envelope.write, *envelope.execute), places, both=True)),
        free=tuple((frozenset(entry.operations), _pattern(entry, places)) for entry in profile.free),
        ceiling=tuple(
            Ceiling(frozenset(entry.operations), _pattern(entry, places), entry.uses, entry.seconds)
            for entry in profile.ceiling
        ),
        durable=frozenset(profile.durable),
        limits=profile.limits,
    )


def paused(own: Rules) -> Rules:
    """The same rules with every open held."""
    return replace(own, reads_pause=True)


def _canonical(texts: Iterable[str], places: Places, *, both: bool = False) -> list[str]:
    """Without symlinks, as the kernel names objects; with `both` the name as written as well, so that something that is
    replaced by a symlink later stays covered."""
    paths: list[str] = []
    for text in texts:
        expanded = os.path.normpath(places.expand(text))
        paths.append(os.path.realpath(expanded))
        if both:
            paths.append(expanded)
    return paths


def _pattern(entry: OperationPattern, places: Places) -> Pattern:
    text = places.expand(entry.on)
    if text.endswith("/**"):
        return Pattern.parse(os.path.realpath(text[:-3] or "/").rstrip("/") + "/**")
    if text.startswith("/"):
        return Pattern.parse(os.path.realpath(text))
    return Pattern.parse(text)
