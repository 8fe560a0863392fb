"""Object patterns of leases, ceilings and policies: exact, a directory and what lies beneath it, or an endpoint."""

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum

_PROTOCOLS = ("tcp", "udp")


class PatternKind(StrEnum):
    """How a pattern's text is read."""

    EXACT = "exact"
    UNDER = "under"
    ENDPOINT = "endpoint"


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
            elif not self.text:
                raise PatternError("an empty pattern matches nothing: leave it out")
            object.__setattr__(self, "_beneath", "")

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Reads the form used in policy files: `/dir/**`, `/file`, `tcp:HOST:PORT`, `unix:…`."""
        if text.startswith(("tcp:", "udp:")):
            return cls(PatternKind.ENDPOINT, text)
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
            f"{text!r}: expected /an/absolute/path, /a/directory/**, tcp:HOST:PORT, udp:HOST:PORT or unix:PATH"
        )

    def matches(self, name: str) -> bool:
        """Whether the canonical object `name` is covered."""
        if self.kind is PatternKind.EXACT:
            return name == self.text
        if self.kind is PatternKind.UNDER:
            return name.startswith(self._beneath) or name == self.text
        return _endpoint_matches(self.text, name)

    def within(self, outer: "Pattern") -> bool:
        """Whether everything this pattern matches is matched by `outer` (sound; may say no for a true yes)."""
        if self == outer:
            return True
        if self.kind is PatternKind.EXACT:
            return outer.matches(self.text)
        if self.kind is PatternKind.UNDER and outer.kind is PatternKind.UNDER:
            return self._beneath.startswith(outer._beneath)
        if self.kind is PatternKind.ENDPOINT and outer.kind is PatternKind.ENDPOINT:
            return "*" not in self.text and "/" not in self.text and outer.matches(self.text)
        return False

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
    elif "*" in host and host != "*":
        raise PatternError(f"{text!r}: * stands for a whole host")


def _endpoint_matches(text: str, name: str) -> bool:
    pattern, found = split_endpoint(text), split_endpoint(name)
    if pattern is None or found is None or pattern[0] != found[0]:
        return False
    if pattern[2] not in ("*", found[2]):
        return False
    if pattern[1] in ("*", found[1]):
        return True
    if "/" not in pattern[1]:
        return False
    try:
        return ipaddress.ip_address(found[1]) in ipaddress.ip_network(pattern[1])
    except ValueError:
        return False
