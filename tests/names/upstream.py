"""A name server for tests, on loopback: answers from a table, over UDP and TCP, and remembers what it was asked."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.support.ports import free_port

Table = Mapping[str, Sequence[str]]


class Upstream:
    """`table`: name → records as `TYPE DATA` (`A 127.0.0.1`, `CNAME other.test.`); it may be changed at any time. A
    name that is not there does not exist."""

    def __init__(self, table: Table) -> None:
        self.table = dict(table)
        self.asked: list[tuple[str, str]] = []
        self.raw: list[bytes] = []
        self.truncates = False
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port = free_port()
        self._udp.bind(("127.0.0.1", self.port))
        self._tcp = socket.create_server(("127.0.0.1", self.port))

    @property
    def configured(self) -> str:
        """As the setting `upstreams` has it."""
        return f"127.0.0.1#{self.port}"

    def names(self) -> set[str]:
        """The names that were asked for."""
        return {name for name, _ in self.asked}

    def answer(self, wire: bytes, *, stream: bool) -> bytes:
        """The response to a query."""
        self.raw.append(wire)
        query = dns.message.from_wire(wire)
        asked = query.question[0]
        name, kind = asked.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(asked.rdtype)
        self.asked.append((name, kind))
        response = dns.message.make_response(query)
        if name not in self.table:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif self.truncates and not stream:
            response.flags |= dns.flags.TC
        else:
            self._fill(response, name, kind)
        return response.to_wire(max_size=65535 if stream else 1232, prefer_truncation=True)

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> None:
        for _ in range(10):
            found = [text.split(" ", 1) for text in self.table.get(name, ())]
            alias = next((data for type_, data in found if type_ == "CNAME"), None)
            if alias is None or kind == "CNAME":
                break
            response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "CNAME", alias))
            name = alias.rstrip(".")
        data = [text for type_, text in found if type_ == kind]
        if data:
            response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", kind, *data))

    def serve_udp(self) -> None:
        """Until the socket is closed."""
        with contextlib.suppress(OSError):
            while True:
                wire, client = self._udp.recvfrom(4096)
                if not wire:
                    return  # it was shut down
                self._udp.sendto(self.answer(wire, stream=False), client)

    def serve_tcp(self) -> None:
        """The same for connections, one question each."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._tcp.accept()
                with connection:
                    (length,) = struct.unpack("!H", connection.recv(2))
                    answer = self.answer(connection.recv(length), stream=True)
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

    def close(self) -> None:
        """Ends both threads."""
        for one in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextlib.contextmanager
def serving(table: Table) -> Iterator[Upstream]:
    """A running name server."""
    upstream = Upstream(table)
    for target in (upstream.serve_udp, upstream.serve_tcp):
        threading.Thread(target=target, daemon=True).start()
    try:
        yield upstream
    finally:
        upstream.close()
