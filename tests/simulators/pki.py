# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for one test."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kedge_agent.settings import TlsFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A key and the certificate for it, in PEM."""

    key: bytes
    certificate: bytes


def make_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class Authority:
    """Signs for servers on 127.0.0.1 and for devices."""

    def __init__(self) -> None:
        self._key = make_key()
        self._name = _name("kedge test authority")
        builder = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def server(self) -> Issued:
        key = make_key()
        names = x509.SubjectAlternativeName(
            [
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            ]
        )
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = (
            self._builder(_name("127.0.0.1"), key.public_key())
            .add_extension(names, critical=False)
            .add_extension(usage, critical=False)
        )
        return Issued(key=_pem(key), certificate=self._sign(builder))

    def device(self, name: str = "d-0123456789abcdef") -> Issued:
        key = make_key()
        return Issued(key=_pem(key), certificate=self.sign_key(key.public_key(), name))

    def sign_key(self, key: ec.EllipticCurvePublicKey, name: str) -> bytes:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = self._builder(_name(name), key).add_extension(usage, critical=False)
        return self._sign(builder)

    def tls_files(self, folder: Path, issued: Issued) -> TlsFiles:
        """Write a client's side of TLS."""
        folder.mkdir(parents=True, exist_ok=True)
        files = TlsFiles(
            key=folder / "key.pem",
            certificate=folder / "cert.pem",
            ca=folder / "ca.pem",
        )
        files.key.write_bytes(issued.key)
        files.certificate.write_bytes(issued.certificate)
        files.ca.write_bytes(self.pem)
        return files

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
