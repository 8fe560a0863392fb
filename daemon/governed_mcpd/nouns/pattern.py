"""Object patterns of leases, ceilings and policies: exact, a directory and what lies beneath it, an endpoint, or names
that are looked up."""

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum

_PROTOCOLS = ("tcp", "udp")
NAME = "name:"  # the object of net.resolve


class PatternKind(StrEnum):
    """How a pattern's text is read."""

    EXACT = "exact"
    UNDER = "under"
    ENDPOINT = "endpoint"
    NAME = "name"


class PatternError(ValueError):
    """A pattern that cannot be represented. The message says what was expected."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Matches canonical object names; never normalises them: what is not canonical does not match."""

    kind: PatternKind
    text: str
    _beneath: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind is PatternKind.UNDER:
            if not self.text.startswith("/"):
                raise PatternError(f"{self.text!r}: a directory pattern is an absolute path")
            # One text for one directory: /a/ would match less than /a, and `within` says yes to both.
            object.__setattr__(self, "text", self.text.rstrip("/") or "/")
            object.__setattr__(self, "_beneath", self.text.rstrip("/") + "/")
        else:
            if self.kind is PatternKind.ENDPOINT:
                _check_endpoint(self.text)
            elif self.kind is PatternKind.NAME:
                _check_host(self.text.removeprefix(NAME), self.text)
            elif not self.text:
                raise PatternError("an empty pattern matches nothing: leave it out")
            object.__setattr__(self, "_beneath", "")

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Reads the form used in policy files: `/dir/**`, `/file`, `tcp:HOST:PORT`, `name:HOST`, `unix:…`."""
        if text.startswith(("tcp:", "udp:")):
            return cls(PatternKind.ENDPOINT, text)
        if text.startswith(NAME):
            return cls(PatternKind.NAME, text)
        if text.endswith("/**"):
            directory = text[:-3] or "/"
            _refuse_wildcards(directory, text)
            return cls(PatternKind.UNDER, directory)
        if text.startswith("/"):
            _refuse_wildcards(text, text)
            return cls(PatternKind.EXACT, text)
        if text.startswith("unix:") and len(text) > 5:
            if "*" in text:
                raise PatternError(f"{text!r}: no wildcard stands in the name of a socket")
            return cls(PatternKind.EXACT, text)
        raise PatternError(
            f"{text!r}: expected /an/absolute/path, /a/directory/**, tcp:HOST:PORT, udp:HOST:PORT, "
            "name:HOST or unix:PATH"
        )

    def matches(self, name: str) -> bool:
        """Whether the canonical object `name` is covered."""
        if self.kind is PatternKind.EXACT:
            return name == self.text
        if self.kind is PatternKind.UNDER:
            return name.startswith(self._beneath) or name == self.text
        if self.kind is PatternKind.NAME:
            return name.startswith(NAME) and _host_matches(self.text[len(NAME) :], name[len(NAME) :])
        return _endpoint_matches(self.text, name)

    def within(self, outer: "Pattern") -> bool:
        """Whether everything this pattern matches is matched by `outer` (sound; may say no for a true yes)."""
        if self == outer:
            return True
        if self.kind is PatternKind.EXACT:
            return outer.matches(self.text)
        if self.kind is PatternKind.UNDER and outer.kind is PatternKind.UNDER:
            return self._beneath.startswith(outer._beneath)
        if self.kind is PatternKind.NAME and outer.kind is PatternKind.NAME:
            host = self.text[len(NAME) :]
            if "*" not in host:
                return outer.matches(self.text)
            # *.a.example is within *.example: without its star it is a name that stands for those beneath it.
            return host != "*" and "*" in outer.text and outer.matches(NAME + host.removeprefix("*."))
        if self.kind is PatternKind.ENDPOINT and outer.kind is PatternKind.ENDPOINT:
            return "*" not in self.text and "/" not in self.text and outer.matches(self.text)
        return False

    def names_addresses(self) -> bool:
        """Whether it is an endpoint pattern that says which addresses it means: by number, not by `*` or a name."""
        parts = split_endpoint(self.text) if self.kind is PatternKind.ENDPOINT else None
        return parts is not None and _is_address(parts[1].partition("/")[0])

    def __str__(self) -> str:
        if self.kind is PatternKind.UNDER:
            return self._beneath + "**"
        return self.text


def split_endpoint(name: str) -> tuple[str, str, str] | None:
    """`tcp:[::1]:80` → ("tcp", "::1", "80"); None for what is not an endpoint."""
    protocol, _, rest = name.partition(":")
    host, colon, port = rest.rpartition(":")
    if protocol not in _PROTOCOLS or not colon or not host or not port:
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return protocol, host, port


def _refuse_wildcards(path: str, text: str) -> None:
    if "*" in path or "?" in path:
        raise PatternError(f"{text!r}: a wildcard stands only at the end, as /**")
    if "//" in path or "/../" in path + "/" or "/./" in path + "/":
        raise PatternError(f"{text!r}: the path has to be canonical (no //, /./ or /../)")


def _check_endpoint(text: str) -> None:
    parts = split_endpoint(text)
    if parts is None:
        raise PatternError(f"{text!r}: expected tcp:HOST:PORT or udp:HOST:PORT, * for any")
    _, host, port = parts
    if port != "*" and not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise PatternError(f"{text!r}: {port!r} is not a port (0 to 65535, or *)")
    if "/" in host:
        try:
            ipaddress.ip_network(host)
        except ValueError as error:
            raise PatternError(f"{text!r}: {error}") from None
    else:
        _check_host(host, text)


def _check_host(host: str, text: str) -> None:
    """`*`, an address, a name, or *.NAME for every name beneath NAME; as they are compared."""
    if host == "*" or _is_address(host):
        return
    name = host.removeprefix("*.")
    if not name or "*" in name:
        raise PatternError(f"{text!r}: * stands for a whole host, or in front of a domain (*.example.org)")
    if name != name.lower() or name.endswith(".") or not name.isascii():
        raise PatternError(f"{text!r}: a name is written in lower case, in ASCII (xn--…), and without a dot at its end")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _host_matches(pattern: str, host: str) -> bool:
    if pattern in ("*", host):
        return True
    return pattern.startswith("*.") and host.endswith(pattern[1:]) and len(host) >= len(pattern)


def _endpoint_matches(text: str, name: str) -> bool:
    pattern, found = split_endpoint(text), split_endpoint(name)
    if pattern is None or found is None or pattern[0] != found[0]:
        return False
    if pattern[2] not in ("*", found[2]):
        return False
    if _host_matches(pattern[1], found[1]):
        return True
    if "/" not in pattern[1]:
        return False
    try:
        return ipaddress.ip_address(found[1]) in ipaddress.ip_network(pattern[1])
    except ValueError:
        return False
