"""The name servers of this machine, and asking them."""

import logging
import os
from collections.abc import Sequence

import dns.asyncquery
import dns.exception
import dns.resolver

from governed_mcpd.resolver.messages import FAILED, Found, Question, found, query

log = logging.getLogger(__name__)
CONFIGURATION = "/etc/resolv.conf"
SECONDS = 3.0  # for one server
MOST = 4
Server = tuple[str, int]


class Upstreams:
    """Those that were named, or else those of resolv.conf(5), which is read again when it has changed."""

    def __init__(self, named: str, configuration: str = CONFIGURATION) -> None:
        self._configuration = configuration
        self._named = bool(named.split())
        self._changed = -1
        self.servers: Sequence[Server] = [_server(text) for text in named.split()][:MOST]
        self.reason = ""

    def current(self) -> Sequence[Server]:
        """Whom to ask, in this order. `reason` says why there is nobody."""
        if self._named:
            return self.servers
        try:
            changed = os.stat(self._configuration).st_mtime_ns
            if changed != self._changed:
                configured = dns.resolver.Resolver(self._configuration)
                self.servers = [(str(address), configured.port) for address in configured.nameservers][:MOST]
                self._changed, self.reason = changed, ""
        except (OSError, dns.exception.DNSException, ValueError) as error:
            self.servers, self._changed = [], -1
            self.reason = f"{self._configuration} names no name server that can be asked: {error}"
        return self.servers

    async def ask(self, question: Question) -> Found:
        """The first answer that is one; SERVFAIL when nobody gives any."""
        last = FAILED
        for address, port in self.current():
            try:
                response, _ = await dns.asyncquery.udp_with_fallback(
                    query(question), address, timeout=SECONDS, port=port, ignore_errors=True
                )
            except (TimeoutError, dns.exception.DNSException, OSError, ValueError) as error:
                log.info("%s does not answer for %s: %s", address, question.name, error)
                continue
            last = found(response)
            if last.code not in (FAILED.code,):
                return last
        return last


def shown(server: Server) -> str:
    """`ADDRESS#PORT`, as the configuration has it."""
    return f"{server[0]}#{server[1]}"


def _server(text: str) -> Server:
    address, _, port = text.partition("#")
    return address, int(port or 53)
