"""Where a URL or HOST:PORT leads, in the words that effects are spoken of with."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from governed_mcpd.nouns.pattern import NAME

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ssh": 22, "ftp": 21}
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Destination:
    """`endpoint` is what is connected to (`tcp:HOST:PORT`), empty without a port; `name` what is looked up before
    (`name:HOST`), empty for an address."""

    endpoint: str
    name: str


def destination(text: str) -> Destination:
    """Where a text leads that is a URL or HOST:PORT. ValueError for one that is neither."""
    parts = urlsplit(text if "://" in text else f"//{text}")
    port = parts.port or _PORTS.get(parts.scheme)
    host, is_name = _host(parts.hostname or "")
    return Destination(f"tcp:{host}:{port}" if port else "", NAME + host if is_name else "")


def _host(text: str) -> tuple[str, bool]:
    """An address, or a name as a resolver asks for it; whether it is a name. ValueError for what is neither."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        name = text.rstrip(".").lower()
        if not name.isascii():
            name = name.encode("idna").decode("ascii")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{text[:80]!r} is no host") from None
        return name, True
    return (f"[{address}]" if address.version == 6 else str(address)), False
