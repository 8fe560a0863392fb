"""Ports for servers that take a number: beneath those that the kernel gives to whoever connects (ip(7),
ip_local_port_range), so that nothing takes one between its choice and its use."""

import random
import socket

_FROM, _MOST = 10_000, 100


def free_port() -> int:
    """One that nobody has on 127.0.0.1, neither for TCP nor for UDP."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        to = int(file.read().split()[0])
    for _ in range(_MOST):
        port = random.randrange(_FROM, to)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"{_MOST} ports between {_FROM} and {to} are all in use")
