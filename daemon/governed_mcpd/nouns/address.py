"""What an IP address is: public, or anything else. Daemon and gate have to agree on it."""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Not public either, whatever this Python's ipaddress says: RFC 6598, 6890, 7526, 8215, 6666, 9637, 9602, 3879.
_ALSO_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "100::/64", "3fff::/20", "5f00::/16",
        "fec0::/10",
    )
)  # fmt: skip
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_COMPATIBLE = ipaddress.ip_network("::/96")  # RFC 4291, 2.5.5.1
_METADATA = frozenset(
    (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
    )
)


@dataclass(frozen=True, slots=True)
class Kind:
    """`private`: anything that is not the public internet. An address that only carries an IPv4 address is what that
    one is."""

    private: bool
    loopback: bool
    metadata: bool
    unspecified: bool


@lru_cache(maxsize=4096)
def kind_of(text: str) -> Kind | None:
    """None for what is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    inner = _embedded(address)
    return Kind(
        private=_private(address if inner is None else inner),
        loopback=address.is_loopback or (inner is not None and inner.is_loopback),
        metadata=str(address) in _METADATA or str(inner) in _METADATA,
        unspecified=address.is_unspecified or (inner is not None and inner.is_unspecified),
    )


def _private(address: _Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return True
    return any(address.version == network.version and address in network for network in _ALSO_PRIVATE)


def _embedded(address: _Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped, compatible, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
