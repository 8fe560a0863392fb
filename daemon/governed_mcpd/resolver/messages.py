"""What a client asks, what leaves the machine for it, and what it gets back (RFC 1035, 6891).

Of a question only name and type leave, in one spelling: flags, options and the case of letters would each carry data
out that nobody judges. Of an answer only the chain from the name to its records comes back, since only that is
remembered.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.svcbbase as svcb
import dns.rrset

# A type is a number of 16 bits, which could carry data as well: these are asked for by programs that resolve names.
TYPES = frozenset(
    dns.rdatatype.from_text(name)
    for name in (
        "A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT", "CAA", "HTTPS", "SVCB", "NAPTR", "DS", "DNSKEY",
        "TLSA", "SSHFP",
    )
)  # fmt: skip
MOST_ADDRESSES = 64
MOST_ALIASES = 16
MOST_SECONDS = 86_400
_HEADER = struct.Struct("!HHHHHH")
_PLAIN_UDP, _LARGEST_UDP, _LARGEST = 512, 4096, 65535


@dataclass(frozen=True, slots=True)
class Question:
    """A name and a type, in the one spelling that leaves. `name` is as master files have it, without the last dot."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a question: the records that its client gets, and the addresses in them."""

    code: dns.rcode.Rcode
    answer: tuple[dns.rrset.RRset, ...] = ()
    authority: tuple[dns.rrset.RRset, ...] = ()
    addresses: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    seconds: int = 0


REFUSED = Found(dns.rcode.REFUSED)
FAILED = Found(dns.rcode.SERVFAIL)


def read(wire: bytes) -> tuple[dns.message.Message | None, Question | bytes | None]:
    """A client's message, and its question; or what it is answered at once; or None: no answer."""
    try:
        message = dns.message.from_wire(wire, ignore_trailing=False)
    except (dns.exception.DNSException, ValueError):
        return None, _malformed(wire)
    if message.flags & dns.flags.QR:
        return message, None
    if message.opcode() != dns.opcode.QUERY:
        return message, _refusal(message, dns.rcode.NOTIMP)
    if len(message.question) != 1 or message.answer or message.authority:
        return message, _refusal(message, dns.rcode.FORMERR)
    asked = message.question[0]
    if asked.rdclass != dns.rdataclass.IN or asked.rdtype not in TYPES:
        return message, _refusal(message, dns.rcode.REFUSED)
    name = asked.name.canonicalize().to_text(omit_final_dot=True)
    return message, Question(name, dns.rdatatype.to_text(asked.rdtype))


def query(question: Question) -> dns.message.QueryMessage:
    """What leaves the machine."""
    name = dns.name.from_text(question.name)
    return dns.message.make_query(name, question.type, use_edns=0, payload=1232)


def found(response: dns.message.Message) -> Found:
    """What of a name server's response is passed on."""
    code = response.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) or not isinstance(response, dns.message.QueryMessage):
        return Found(code)
    try:
        chain = response.resolve_chaining()
    except dns.exception.DNSException:
        return FAILED  # a chain that is too long, or an answer that contradicts itself
    answer = (*chain.cnames, *([chain.answer] if chain.answer is not None else []))
    if len(chain.cnames) > MOST_ALIASES:
        return FAILED
    authority = tuple(rrset for rrset in response.authority if rrset.rdtype == dns.rdatatype.SOA)
    addresses = tuple(dict.fromkeys(address for rdata in chain.answer or () for address in _addresses(rdata)))
    if len(addresses) > MOST_ADDRESSES:
        return FAILED
    for rrset in (*answer, *authority):
        rrset.ttl = min(rrset.ttl, MOST_SECONDS)
    aliases = tuple(rrset[0].target.canonicalize().to_text(omit_final_dot=True) for rrset in chain.cnames)
    seconds = min((rrset.ttl for rrset in answer), default=0)
    return Found(code, answer, authority[:1], addresses, aliases, seconds)


def reply(message: dns.message.Message, what: Found, *, stream: bool) -> bytes:
    """The client's answer. Over UDP one that does not fit says so, and the client comes again over TCP."""
    response = dns.message.make_response(message, recursion_available=True)
    response.set_rcode(what.code)
    if what.code == dns.rcode.REFUSED and message.edns >= 0:
        # RFC 8914: a program that shows it tells its user that this is no failure.
        blocked = dns.edns.EDEOption(dns.edns.EDECode.BLOCKED, "governed-mcpd")
        response.use_edns(0, payload=_LARGEST_UDP, options=[blocked])
    response.answer = list(what.answer)
    response.authority = list(what.authority)
    if stream:
        return response.to_wire(max_size=_LARGEST)
    room = _PLAIN_UDP if message.edns < 0 else min(max(message.payload, _PLAIN_UDP), _LARGEST_UDP)
    return response.to_wire(max_size=room, prefer_truncation=True)


def _addresses(rdata: dns.rdata.Rdata) -> Sequence[str]:
    if rdata.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
        return [rdata.address]  # type: ignore[attr-defined]
    if isinstance(rdata, svcb.SVCBBase):
        # RFC 9460, 7.3: a client may connect to these without asking for them.
        hints = (rdata.params.get(key) for key in (svcb.ParamKey.IPV4HINT, svcb.ParamKey.IPV6HINT))
        return [address for hint in hints if hint is not None for address in hint.addresses]
    return []


def _refusal(message: dns.message.Message, code: dns.rcode.Rcode) -> bytes:
    return reply(message, Found(code), stream=False)


def _malformed(wire: bytes) -> bytes | None:
    if len(wire) < _HEADER.size:
        return None
    identity, flags, *_ = _HEADER.unpack_from(wire)
    if flags & dns.flags.QR:
        return None
    return _HEADER.pack(identity, dns.flags.QR | (flags & dns.flags.RD) | dns.rcode.FORMERR, 0, 0, 0, 0)
