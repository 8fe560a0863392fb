"""Certificates for tests: an authority, a gate and a balancer on loopback, and the wrong ones that attackers have."""

import datetime
import ipaddress
import os
import shutil
from pathlib import Path

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import DNSName, GeneralName, IPAddress
from cryptography.x509.oid import ExtendedKeyUsageOID

from governed_mcpd.gate.remote import authority
from tests.support.users import GATE

DAY = datetime.timedelta(days=1)


class Certificates:
    """An authority in `base`, with directories that the gate's user may read."""

    def __init__(self, base: Path, name: str = "ca") -> None:
        self.authority = authority.create(base / name)
        self.directory = base / name
        self.gate = self._handed_over(self.authority.issue_gate("gate", ["127.0.0.1", "localhost"]).directory)
        self.balancer = self._handed_over(self.authority.issue_balancer("balancer").directory)

    def _handed_over(self, directory: Path) -> Path:
        """As an operator copies it: belonging to the gate's user, outside the authority's directory."""
        place = self.directory.parent / f"{self.directory.name}-{directory.name}"
        shutil.copytree(directory, place, dirs_exist_ok=True)
        for path in (place, *place.iterdir()):
            os.chown(path, GATE, GATE)
        return place

    def hand_over_again(self) -> None:
        """Renews both and copies them where the old ones lie."""
        for issued in (
            self.authority.issue_gate("gate", ["127.0.0.1", "localhost"]),
            self.authority.issue_balancer("balancer"),
        ):
            self._handed_over(issued.directory)

    def expired(self, role: str) -> tuple[bytes, bytes]:
        """A certificate of this authority that ended yesterday, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        here = [DNSName("localhost"), IPAddress(ipaddress.ip_address("127.0.0.1"))]
        hosts: list[GeneralName] = list(here) if role == "gate" else []
        usage = ExtendedKeyUsageOID.SERVER_AUTH if role == "gate" else ExtendedKeyUsageOID.CLIENT_AUTH
        certificate = self.authority.sign(f"{role} old", key.public_key(), hosts, usage, (now - 9 * DAY, now - DAY))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), private

    def write_expired(self, role: str, place: Path) -> Path:
        """The same as a directory that a gate or balancer is started with."""
        shutil.copytree(self.gate if role == "gate" else self.balancer, place)
        certificate, key = self.expired(role)
        (place / authority.CERTIFICATE).write_bytes(certificate)
        (place / authority.KEY).write_bytes(key)
        for path in (place, *place.iterdir()):
            os.chown(path, GATE, GATE)
        return place

    def channel(self, address: str, own: tuple[bytes, bytes] | None = None) -> grpc.Channel:
        """A client of its own that trusts this authority, with the certificate and key `own`, or none."""
        trusted = (self.directory / authority.CA).read_bytes()
        certificate, key = own or (None, None)
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted, key, certificate))

    def pair(self, role: str) -> tuple[bytes, bytes]:
        """Certificate and key of the gate or the balancer."""
        place = self.gate if role == "gate" else self.balancer
        return (place / authority.CERTIFICATE).read_bytes(), (place / authority.KEY).read_bytes()
