"""One held call with what is needed to read it."""

from dataclasses import dataclass
from typing import Protocol

from governed_mcpd.grant.seal import Target
from governed_mcpd.kernel.notify import Held
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.pause.memory import Memory
from governed_mcpd.pause.object import Object
from governed_mcpd.pause.observation import Effects
from governed_mcpd.pause.resolve import Place, Resolver

LED = "led"  # to governed-resolver, by the kernel: names/redirect


class Inside(Protocol):
    """What the observer asks of the sandbox that a thread belongs to."""

    def reaches(self, tid: int, pid: int) -> bool:
        """Whether the process or thread `pid` belongs to the Subject of the thread `tid`, or to one below it."""

    def launcher_of(self, tid: int) -> int:
        """The process id of the launcher that started the Subject of the thread `tid`."""

    def dns_of(self, socket: int) -> str:
        """Where what a socket (a duplicate) sends to port 53 goes: LED, or why not to governed-resolver."""

    def borrow(self, tgid: int, number: int) -> int:
        """A duplicate of a descriptor of one of its processes: pidfd_getfd(2). OSError."""


@dataclass(slots=True)
class Call:
    """A held call, the thread's place and memory, and the resolver of the observing thread. `sealed`: what is found has
    to be told to the kernel, too."""

    held: Held
    place: Place
    memory: Memory
    resolver: Resolver
    inside: Inside
    sealed: bool = False

    def integer(self, index: int) -> int:
        """Argument `index` as the kernel takes a C int: the low 32 bits, signed."""
        value = self.held.args[index] & 0xFFFFFFFF
        return value - (1 << 32) if value & 0x80000000 else value

    def register(self, index: int) -> int:
        """Argument `index` as an unsigned long or a pointer."""
        return self.held.args[index]

    def path(self, index: int) -> bytes:
        return self.memory.path(self.held.args[index])

    def named(self, index: int, directory: int, *, follow: bool = True, resolve: int = 0) -> Object:
        """What the path in argument `index` leads to. WouldFail, CannotRead."""
        address = self.held.args[index]
        return self.resolver.named(self.place, self.memory, address, directory, follow=follow, resolve=resolve)


def one(operation: Operation, found: Object | str, **details: str) -> Effects:
    """A single effect on a canonical object."""
    name = found if isinstance(found, str) else found.name
    effect = SideEffect(operation, name, details=details) if details else SideEffect(operation, name)
    return Effects((effect,), () if isinstance(found, str) or found.target is None else (found.target,))


def targets(*found: Object) -> tuple[Target, ...]:
    """What a seal is told of the objects; nothing without one."""
    return tuple(one.target for one in found if one.target is not None)
