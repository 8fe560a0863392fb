"""A small certificate authority for gates and balancers, on the `cryptography` package: one directory, made once.

    DIR/ca.pem, ca.key              the authority; the key stays here
    DIR/gates/NAME/                 for a remote gate: ca.pem, own.pem, own.key
    DIR/balancers/NAME/             for a local gate that asks remote ones: the same three files

A gate's certificate is for servers and names its hosts, a balancer's is for clients: neither can play the other.
"""

import datetime
import ipaddress
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from governed_mcpd.gate.remote import AuthorityError

CA, CERTIFICATE, KEY = "ca.pem", "own.pem", "own.key"
CA_KEY = "ca.key"
GATES, BALANCERS = "gates", "balancers"
CA_DAYS = 3650
DAYS = 365
# Clocks of two machines differ; a certificate is valid from a little before it was made.
_EARLIER = datetime.timedelta(minutes=5)
_ORGANISATION = "governed-mcpd"
_MAX_DAYS = 825


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate: its directory, what it is for (gate, balancer, authority), the names in it, and its times."""

    directory: Path
    role: str
    names: tuple[str, ...]
    begins: datetime.datetime
    ends: datetime.datetime

    def days_left(self, now: datetime.datetime | None = None) -> int:
        """Whole days until it ends; negative when it has."""
        return (self.ends - (now or _now())).days


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority of one directory, with its key."""

    directory: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue_gate(self, name: str, hosts: Sequence[str], days: int = DAYS) -> Issued:
        """A certificate for a remote gate that balancers reach as one of `hosts` (names or addresses)."""
        if not hosts:
            raise AuthorityError(f"gate {name}: name at least one host that balancers reach it by")
        return self._issue(GATES, name, [_host(host) for host in hosts], ExtendedKeyUsageOID.SERVER_AUTH, days)

    def issue_balancer(self, name: str, days: int = DAYS) -> Issued:
        """A certificate for a local gate that asks remote ones."""
        return self._issue(BALANCERS, name, [], ExtendedKeyUsageOID.CLIENT_AUTH, days)

    def renew(self, issued: Issued, days: int = DAYS) -> Issued:
        """The same with a new key and new times; the old one is overwritten."""
        if issued.role == "gate":
            return self.issue_gate(issued.directory.name, issued.names, days)
        return self.issue_balancer(issued.directory.name, days)

    def _issue(
        self, kind: str, name: str, hosts: list[x509.GeneralName], usage: x509.ObjectIdentifier, days: int
    ) -> Issued:
        if not name or not name.replace("-", "").replace(".", "").replace("_", "").isalnum() or name.startswith("."):
            raise AuthorityError(f"{name!r} is no name for a certificate: expected letters, digits, '-', '_' and '.'")
        if not 0 < days <= _MAX_DAYS:
            raise AuthorityError(f"{days} days: expected 1 to {_MAX_DAYS}")
        begins, ends = _now() - _EARLIER, _now() + datetime.timedelta(days=days)
        if ends > self.certificate.not_valid_after_utc:
            raise AuthorityError(
                f"{self.directory / CA} ends on {self.certificate.not_valid_after_utc:%Y-%m-%d}, before a certificate "
                f"of {days} days would: ask for fewer days, or make a new authority in another directory"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(f"{kind[:-1]} {name}", key.public_key(), hosts, usage, (begins, ends))
        place = self.directory / kind / name
        _make_directory(place.parent)
        _make_directory(place)
        _write(place / CA, _pem(self.certificate), 0o644)
        # The key first: a half-written pair is refused when it is read (the key does not fit), never used.
        _write(place / KEY, _key_pem(key), 0o600)
        _write(place / CERTIFICATE, _pem(certificate), 0o644)
        return _issued(place / CERTIFICATE, certificate)

    def sign(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        hosts: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        valid: tuple[datetime.datetime, datetime.datetime],
    ) -> x509.Certificate:
        """A certificate for `key`, signed by this authority."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(valid[0])
            .not_valid_after(valid[1])
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def create(directory: Path, days: int = CA_DAYS) -> Authority:
    """A new authority in `directory`, which may exist and be empty. Raises AuthorityError."""
    if (directory / CA).exists() or (directory / CA_KEY).exists():
        raise AuthorityError(f"{directory} has an authority already: it stays as it is")
    _make_directory(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("authority of gates")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _EARLIER)
        .not_valid_after(_now() + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(directory / CA_KEY, _key_pem(key), 0o600)
    _write(directory / CA, _pem(certificate), 0o644)
    return Authority(directory, certificate, key)


def load(directory: Path) -> Authority:
    """The authority of `directory`. Raises AuthorityError."""
    certificate, key = read_certificate(directory / CA), read_key(directory / CA_KEY)
    if certificate.public_key() != key.public_key():
        raise AuthorityError(f"{directory / CA_KEY} does not fit {CA}: put back the two that belong together")
    if certificate.not_valid_after_utc <= _now():
        ended = certificate.not_valid_after_utc
        raise AuthorityError(f"{directory / CA} ended on {ended:%Y-%m-%d}: make a new authority in another directory")
    return Authority(directory, certificate, key)


def everything(directory: Path) -> Iterator[Issued]:
    """The authority's own certificate and all that it issued, as the files say. Raises AuthorityError."""
    yield _issued(directory / CA, read_certificate(directory / CA))
    for kind in (GATES, BALANCERS):
        place = directory / kind
        for one in sorted(place.iterdir()) if place.is_dir() else ():
            yield _issued(one / CERTIFICATE, read_certificate(one / CERTIFICATE))


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises AuthorityError."""
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError:
        raise AuthorityError(f"{path} holds no certificate in PEM: make it again (governedctl gate certs)") from None


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key of a PEM file that nobody else may read. Raises AuthorityError, which never quotes the file."""
    content = _read(path)
    mode = path.stat().st_mode & 0o077
    if mode:
        raise AuthorityError(f"{path} may be used by others than its owner: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise AuthorityError(f"{path} holds no private key in PEM without a password: make it again") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AuthorityError(f"{path} holds a key of another kind: expected an elliptic curve key, as gate certs makes")
    return key


def check(directory: Path, role: str) -> tuple[bytes, bytes, bytes]:
    """Authority, certificate and key of a gate or a balancer, as bytes for TLS, after a look at whether they can work.

    Raises AuthorityError: what is missing, open to others, ended, of another authority, or for another role.
    """
    authority, own = read_certificate(directory / CA), read_certificate(directory / CERTIFICATE)
    key = read_key(directory / KEY)
    where = directory / CERTIFICATE
    if own.public_key() != key.public_key():
        raise AuthorityError(f"{directory / KEY} does not fit {CERTIFICATE}: copy the whole directory again")
    try:
        own.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise AuthorityError(f"{where} was not issued by {directory / CA}: copy the whole directory again") from None
    now = _now()
    if own.not_valid_after_utc <= now:
        raise AuthorityError(
            f"{where} ended on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it (gate certs renew)"
        )
    if own.not_valid_before_utc > now:
        raise AuthorityError(f"{where} begins on {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: look at the clock")
    if _role(own) != role:
        raise AuthorityError(f"{where} is for a {_role(own)}: expected one for a {role}")
    return _pem(authority), _pem(own), _key_pem(key)


def _issued(path: Path, certificate: x509.Certificate) -> Issued:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(str(name.value) for name in extension.value)
    except x509.ExtensionNotFound:
        names = ()
    times = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    return Issued(path.parent, _role(certificate), names, *times)


def _role(certificate: x509.Certificate) -> str:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "authority"
    return "gate" if ExtendedKeyUsageOID.SERVER_AUTH in usages else "balancer"


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    if not text.isascii() or not text.replace("-", "").replace(".", "").isalnum() or ".." in text:
        raise AuthorityError(f"{text!r} is no host: expected a name or an address, without a port")
    return x509.DNSName(text)


def _name(text: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION), x509.NameAttribute(NameOID.COMMON_NAME, text)]
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AuthorityError(f"{path}: cannot be read: {error.strerror}") from None


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise AuthorityError(f"{path}: cannot be made: {error.strerror}") from None


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replaces `path` whole; it never exists with more permissions than `mode`."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
        new.replace(path)
    except OSError as error:
        raise AuthorityError(f"{path}: cannot be written: {error.strerror}") from None


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
