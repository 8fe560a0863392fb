"""What an endpoint is: `tcp:HOST:PORT`, `udp:HOST:PORT`, `unix:PATH`, `unix:@NAME`."""

import re
from dataclasses import dataclass
from functools import lru_cache

from governed_mcpd.gate.constitution import known
from governed_mcpd.gate.constitution.places import NotCanonical, _above
from governed_mcpd.nouns.address import kind_of
from governed_mcpd.nouns.pattern import split_endpoint

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]\Z")
_LOCAL_NAMES = (
    ".localhost", ".local", ".internal", ".intranet", ".private", ".corp", ".home", ".lan", ".localdomain",
    ".home.arpa",    ".test", ".invalid", ".example", ".onion", ".cluster.local", ".svc", ".docker", ".consul",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. `private`: anything that is not the public internet, and anything that cannot be told."""

    protocol: str
    host: str
    port: int
    private: bool
    loopback: bool
    metadata: bool
    unspecified: bool
    broker: bool = False
    credential: bool = False
    plain: bool = False


@lru_cache(maxsize=4096)
def endpoint(name: str) -> Endpoint:
    """Reads a canonical endpoint. Raises NotCanonical for what is none."""
    if name.startswith("unix:") and len(name) > 5:
        return _unix(name[5:])
    parts = split_endpoint(name)
    if parts is None:
        raise NotCanonical(f"{name[:200]!r} is not tcp:HOST:PORT, udp:HOST:PORT or unix:PATH")
    protocol, host, port = parts
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise NotCanonical(f"{name[:200]!r}: {port[:20]!r} is not a port")
    return host_endpoint(protocol, host, int(port))


def host_endpoint(protocol: str, host: str, port: int) -> Endpoint:
    """An endpoint whose host is an address, or a name as it stands in a URL."""
    lower = host.lower().rstrip(".")
    kind = kind_of(lower)
    if kind is None:
        loopback = lower == "localhost" or lower.endswith(".localhost")
        metadata = lower in ("metadata.google.internal", "metadata", "instance-data", "metadata.azure.internal")
        # 127.1, 0x7f000001 and 2130706433 are addresses to libc: no public name looks like them.
        private = not _HOST_NAME.match(lower) or lower.endswith(_LOCAL_NAMES)
        return Endpoint(protocol, lower, port, private, loopback, metadata, unspecified=False)
    return Endpoint(
        protocol=protocol,
        host=lower,
        port=port,
        private=kind.private,
        loopback=kind.loopback,
        metadata=kind.metadata,
        unspecified=kind.unspecified,
    )


def _unix(path: str) -> Endpoint:
    lower = path.lower()
    # An abstract name ("@/tmp/.X11-unix/X0") often repeats the path of the socket that it stands for.
    as_path = lower[1:] if lower.startswith("@") else lower
    above = _above(as_path)
    credential = any(part in lower for part in known.CREDENTIAL_SOCKET_PARTS)
    return Endpoint(
        protocol="unix",
        host=path,
        port=0,
        private=False,
        loopback=False,
        metadata=False,
        unspecified=False,
        broker=not above.isdisjoint(known.BROKER_TREES) or _user_broker(as_path) or _named_broker(as_path),
        credential=credential,
        plain=not path.startswith("@") and not above.isdisjoint(known.PLAIN_SOCKETS),
    )


def _user_broker(lower: str) -> bool:
    if not lower.startswith("/run/user/"):
        return False
    rest = lower.split("/", 4)
    return len(rest) == 5 and rest[4].startswith(known.BROKER_USER_NAMES)


def _named_broker(lower: str) -> bool:
    return any(part in lower for part in known.BROKER_SOCKET_PARTS)
