"""Held calls on sockets: connect(2), bind(2), listen(2), send(2), with the addresses of ip(7), ipv6(7), unix(7)."""

import errno
import ipaddress
import os
import socket
import struct

from governed_mcpd.kernel import procfs, sockets
from governed_mcpd.nouns.action import SideEffect
from governed_mcpd.nouns.operation import Operation
from governed_mcpd.pause.call import Call, one, targets
from governed_mcpd.pause.object import Object, describe
from governed_mcpd.pause.observation import CannotRead, Effects, Harmless, Observation, Unreadable, WouldFail
from governed_mcpd.pause.resolve import AT_FDCWD

_ADDRESS_MOST = 128  # struct sockaddr_storage
_UNIX_MOST = 110  # struct sockaddr_un: unix(7)
_FAMILY = struct.Struct("H")
MSG_FASTOPEN = 0x20000000
_DNS = 53
# libc, Go and musl connect a datagram socket there to each address that they found, to see what they would send from,
# and send nothing. What was sent all the same would reach whoever looks for it: so they are told that no route leads
# there, and take the addresses in the order in which they came.
_ROUTE_PORTS = (0, 9, 65535)
_MSGHDR = struct.Struct("QIxxxxQQQQixxxx")  # bits/socket.h struct msghdr on 64-bit
_MMSGHDR_SIZE = 64
_MESSAGES_MOST = 64


def connect(call: Call) -> Observation:
    address = _address(call, 1, 2)
    if _family(address) == socket.AF_UNSPEC:
        # It leads nowhere; but without a seal another thread can write a family into it in time. So it has a record.
        return one(Operation.NET_CONNECT, "unspecified")
    return _endpoint(call, Operation.NET_CONNECT, address)


def bind(call: Call) -> Observation:
    address = _address(call, 1, 2)
    if _family(address) == socket.AF_NETLINK:
        return Harmless("route netlink, the only netlink that the filter lets be opened")
    if _family(address) == socket.AF_UNIX and len(address) == _FAMILY.size:
        return Harmless("autobind: the kernel chooses an unused abstract name")
    return _endpoint(call, Operation.NET_BIND, address)


def listen(call: Call) -> Observation:
    with _borrowed(call) as sock:
        try:
            name = sock.getsockname()
        except OSError as error:
            raise WouldFail(error.errno or errno.EINVAL) from None
        if sock.family == socket.AF_UNIX:
            if not name:
                return Unreadable("listen-unbound", "a unix socket that listens without a name", Operation.NET_LISTEN)
            if isinstance(name, bytes):
                return one(Operation.NET_LISTEN, "unix:@" + os.fsdecode(name[1:]))
            found = _bound_file(call, sock, name)
            return Effects((SideEffect(Operation.NET_LISTEN, f"unix:{found.name}"),), targets(found))
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise WouldFail(errno.EOPNOTSUPP)
        return one(Operation.NET_LISTEN, f"{_protocol(sock)}:{_host(name[0])}:{name[1]}")


def _bound_file(call: Call, sock: socket.socket, name: str) -> Object:
    """The file of a unix socket. `name` is what bind was given: perhaps relative, to a directory
    that is not the thread's any more; only where the kernel does not tell the file itself is it looked up."""
    try:
        opened = sockets.unix_file(sock.fileno())
    except OSError:
        return call.resolver.object(call.place, AT_FDCWD, os.fsencode(name))
    try:
        return call.resolver.kept(describe(opened), opened)
    finally:
        os.close(opened)


def sendto(call: Call) -> Observation:
    if call.register(4) == 0 or call.integer(5) == 0:
        return Harmless("goes where connect was approved for")
    return _send(call, _address(call, 4, 5), call.integer(3))


def sendmsg(call: Call) -> Observation:
    return _message(call, call.memory.read(call.register(1), _MSGHDR.size), call.integer(2))


def sendmmsg(call: Call) -> Observation:
    count = call.integer(2)
    if not 0 <= count <= _MESSAGES_MOST:
        return Unreadable("too-many-messages", f"more than {_MESSAGES_MOST} messages in one call", Operation.NET_SEND)
    effects: list[SideEffect] = []
    for index in range(count):
        header = call.memory.read(call.register(1) + index * _MMSGHDR_SIZE, _MSGHDR.size)
        found = _message(call, header, call.integer(3))
        if isinstance(found, Effects) and call.sealed:
            # A grant is for one effect. The kernel stops at the next message that has an address, and tells the thread
            # how many went: it comes again with the others (sendmmsg(2), RETURN VALUE).
            return found
        if isinstance(found, Effects):
            effects += [effect for effect in found.effects if effect not in effects]
        elif not isinstance(found, Harmless):
            return found
    return Effects(tuple(effects)) if effects else Harmless("goes where connect was approved for")


def _message(call: Call, header: bytes, flags: int) -> Observation:
    name, length, *_ = _MSGHDR.unpack(header)
    if name == 0 or length == 0:
        return Harmless("goes where connect was approved for")
    return _send(call, _checked(call, name, length), flags)


def _send(call: Call, address: bytes, flags: int) -> Observation:
    if _family(address) == socket.AF_NETLINK:
        return Harmless("route netlink, the only netlink that the filter lets be opened")
    operation = Operation.NET_CONNECT if flags & MSG_FASTOPEN else Operation.NET_SEND
    if _family(address) == socket.AF_UNSPEC:
        # udp_sendmsg takes AF_UNSPEC for AF_INET: net/ipv4/udp.c
        address = _FAMILY.pack(socket.AF_INET) + address[2:]
    return _endpoint(call, operation, address)


def _address(call: Call, pointer: int, length: int) -> bytes:
    return _checked(call, call.register(pointer), call.integer(length))


def _checked(call: Call, pointer: int, length: int) -> bytes:
    if not _FAMILY.size <= length <= _ADDRESS_MOST:
        raise WouldFail(errno.EINVAL)
    return call.memory.read(pointer, length)


def _family(address: bytes) -> int:
    family: int = _FAMILY.unpack_from(address)[0]
    return family


def _endpoint(call: Call, operation: Operation, address: bytes) -> Observation:
    family = _family(address)
    if family == socket.AF_UNIX:
        if len(address) > _UNIX_MOST:
            raise WouldFail(errno.EINVAL)
        return _unix(call, operation, address)
    if family == socket.AF_INET and len(address) >= 8:
        port, host = struct.unpack_from("!H4s", address, 2)
        shown = str(ipaddress.IPv4Address(host))
    elif family == socket.AF_INET6 and len(address) >= 24:
        port, _flow, raw = struct.unpack_from("!HI16s", address, 2)
        parsed = ipaddress.IPv6Address(raw)
        # ::ffff:10.0.0.1 is 10.0.0.1: one name for one host
        shown = str(parsed.ipv4_mapped or parsed)
    elif family in (socket.AF_INET, socket.AF_INET6):
        raise WouldFail(errno.EINVAL)
    else:
        raise CannotRead("address-family", f"an address of family {family} is not known")
    with _borrowed(call) as sock:
        if operation is Operation.NET_CONNECT and port in _ROUTE_PORTS and sock.type == socket.SOCK_DGRAM:
            raise WouldFail(errno.ENETUNREACH)
        name = f"{_protocol(sock)}:{_host(shown)}:{port}"
        if port == _DNS and operation in (Operation.NET_CONNECT, Operation.NET_SEND):
            return one(operation, name, dns=call.inside.dns_of(sock.fileno()))
        return one(operation, name)


def _unix(call: Call, operation: Operation, address: bytes) -> Observation:
    path = address[_FAMILY.size :]
    if path.startswith(b"\0"):
        return one(operation, "unix:@" + os.fsdecode(path[1:]))
    path = path.partition(b"\0")[0]
    if operation is Operation.NET_BIND:
        found = call.resolver.entry(call.place, AT_FDCWD, path)
        if found.exists:
            raise WouldFail(errno.EADDRINUSE)
    else:
        found = call.resolver.object(call.place, AT_FDCWD, path)
    return Effects((SideEffect(operation, "unix:" + found.name),), targets(found))


def _host(text: str) -> str:
    text = text.partition("%")[0]
    return f"[{text}]" if ":" in text else text


def _borrowed(call: Call) -> socket.socket:
    """A duplicate of the thread's socket. The filter refuses a thread a descriptor table of its own, so the process's
    table is the thread's."""
    try:
        tgid = procfs.status(call.held.tid).tgid
        descriptor = call.inside.borrow(tgid, call.integer(0))
    except OSError as error:
        if error.errno == errno.EBADF:
            raise WouldFail(errno.EBADF) from None
        raise CannotRead("socket-unreadable", f"the thread's socket cannot be looked at: {error}") from error
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        os.close(descriptor)
        raise WouldFail(errno.ENOTSOCK if error.errno == errno.ENOTSOCK else errno.EBADF) from None


def _protocol(sock: socket.socket) -> str:
    kinds = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}
    protocol = kinds.get(socket.SocketKind(sock.type))
    if protocol is None:
        raise CannotRead("socket-type", f"a socket of type {sock.type} is not known")
    return protocol
