"""Sockets."""

from governed_mcpd.sandbox.table.row import (
    EXACT,
    HELD,
    Carrier,
    Condition,
    Disposition,
    Row,
    Test,
    holds,
    passes,
)

# linux/socket.h, linux/net.h, linux/in.h, linux/netlink.h
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_TYPE_MASK = 1, 2, 3, 0xF
IPPROTO_TCP, IPPROTO_UDP, NETLINK_ROUTE, PF_UNIX = 6, 17, 0, 1
MSG_FASTOPEN = 0x2000_0000

_SOCKETS = (
    (AF_UNIX, SOCK_STREAM, (0, PF_UNIX)),
    (AF_UNIX, SOCK_DGRAM, (0, PF_UNIX)),
    (AF_INET, SOCK_STREAM, (0, IPPROTO_TCP)),
    (AF_INET, SOCK_DGRAM, (0, IPPROTO_UDP)),
    (AF_INET6, SOCK_STREAM, (0, IPPROTO_TCP)),
    (AF_INET6, SOCK_DGRAM, (0, IPPROTO_UDP)),
    (AF_NETLINK, SOCK_RAW, (NETLINK_ROUTE,)),
    (AF_NETLINK, SOCK_DGRAM, (NETLINK_ROUTE,)),
)


def _socket() -> Row:
    allowed = tuple(
        Condition(
            Disposition.PASS,
            (Test(0, EXACT, domain), Test(1, SOCK_TYPE_MASK, kind), Test(2, EXACT, protocol)),
            "unix, IPv4 and IPv6 as stream or datagram, and route netlink (libc asks it for addresses)",
        )
        for domain, kind, protocols in _SOCKETS
        for protocol in protocols
    )
    reason = "raw, packet, vsock, crypto, ICMP, SCTP, MPTCP and all other sockets: no rule could name where they lead"
    return Row("socket", Disposition.REFUSE, frozenset({Carrier.FILTER}), reason, conditions=allowed)


def _sendto() -> Row:
    connected = Condition(
        Disposition.PASS,
        (Test(4, EXACT, 0), Test(3, MSG_FASTOPEN, 0)),
        "without an address it goes where connect (held) led",
    )
    reason = "names where it sends to; MSG_FASTOPEN connects"
    return Row("sendto", Disposition.HOLD, HELD, reason, conditions=(connected,))


NETWORK: tuple[Row, ...] = (
    _socket(),
    _sendto(),
    *holds("leads out of the sandbox", "connect"),
    *holds("takes a name that others reach", "bind"),
    *holds("lets others in; without bind it takes a port of the kernel's choice", "listen"),
    *holds("its address, and descriptors that it hands over, lie in memory", "sendmsg", "sendmmsg"),
    *passes(
        "from a socket whose connect or listen was held",
        "accept",
        "accept4",
        "recvfrom",
        "recvmsg",
        "recvmmsg",
        carriers=HELD,
    ),
    *passes("both ends are this process's", "socketpair"),
    *passes("of a socket of this process", "shutdown", "getsockname", "getpeername", "getsockopt", "setsockopt"),
)
