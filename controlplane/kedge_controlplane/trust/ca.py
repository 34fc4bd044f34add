# SPDX-License-Identifier: Apache-2.0
"""The certificate authority of one control plane: a root, its server, its devices.

The root is made at the first start and kept under the trust folder. Key and certificate
are two files, key first: killed in between, the next start makes the certificate for
the same key. The server's key and chain are one file, so they always belong together;
it is made again when the names change or its end is near. The object is immutable and
may be used from any thread.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kedge_controlplane.errors import TrustError
from kedge_controlplane.trust.files import read_or_create, write_private
from kedge_controlplane.trust.identity import serial_text, spiffe_uri

MAX_CSR_BYTES: Final = 8192
ROOT_LIFE: Final = timedelta(days=3650)
SERVER_LIFE: Final = timedelta(days=397)
DEVICE_LIFE: Final = timedelta(days=90)

_RENEW_SERVER: Final = SERVER_LIFE / 3
_SKEW: Final = timedelta(minutes=5)
"""Certificates begin this much earlier: devices' clocks are not exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCertificate:
    pem: str  # leaf only; the device has the root from its enrolment file
    serial: str
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    path: Path  # key and chain
    key_pem: bytes
    chain_pem: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKey:
    """The public key of a request whose owner proved to hold the private one."""

    key: ec.EllipticCurvePublicKey
    sha256: str  # of the SubjectPublicKeyInfo


class CertificateAuthority:
    """Issues certificates; of a request it copies nothing but the public key."""

    def __init__(
        self, *, folder: Path, key: ec.EllipticCurvePrivateKey, root: x509.Certificate
    ) -> None:
        self._folder = folder
        self._key = key
        self._root = root

    @classmethod
    def open(cls, folder: Path, *, now: datetime) -> Self:
        """Load the root from `folder`, or make it.

        Raises:
            TrustError: A file is not what this class wrote, or key and root do not
            match.
        """
        key = _load_key(
            read_or_create(folder / "ca.key", lambda: _key_pem(_new_key())), "ca.key"
        )
        pem = read_or_create(
            folder / "ca.pem",
            lambda: _root(key, now).public_bytes(Encoding.PEM),
        )
        try:
            root = x509.load_pem_x509_certificate(pem)
        except ValueError as exc:
            raise TrustError("ca.pem: expected a certificate") from exc
        if _spki(root.public_key()) != _spki(key.public_key()):
            raise TrustError("ca.pem: expected the certificate of the key in ca.key")
        return cls(folder=folder, key=key, root=root)

    @property
    def root_pem(self) -> bytes:
        return self._root.public_bytes(Encoding.PEM)

    def server_certificate(
        self, names: Sequence[str], *, now: datetime
    ) -> ServerCertificate:
        """Return a server certificate for host names and addresses, made if need be."""
        path = self._folder / "server.pem"
        wanted = [_general_name(name) for name in dict.fromkeys(names)]
        current = path.read_bytes() if path.exists() else b""
        if not self._serves(current, wanted, now):
            key = _new_key()
            leaf = self._sign_server(key, wanted, now).public_bytes(Encoding.PEM)
            current = _key_pem(key) + leaf + self.root_pem
            write_private(path, current)
        begin = current.index(b"-----BEGIN CERTIFICATE-----")
        return ServerCertificate(
            path=path, key_pem=current[:begin], chain_pem=current[begin:]
        )

    def issue_device(
        self, request: DeviceKey, *, namespace: str, device: str, now: datetime
    ) -> DeviceCertificate:
        """Certify a device's key under the name that the server chose."""
        certificate = (
            _builder(device, self._root.subject, request.key, now, DEVICE_LIFE)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(spiffe_uri(namespace, device))]
                ),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
        )
        signed = self._leaf(certificate)
        return DeviceCertificate(
            pem=signed.public_bytes(Encoding.PEM).decode(),
            serial=serial_text(signed.serial_number),
            not_after=signed.not_valid_after_utc,
        )

    def _sign_server(
        self,
        key: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        now: datetime,
    ) -> x509.Certificate:
        builder = _builder(
            "kedge server", self._root.subject, key.public_key(), now, SERVER_LIFE
        )
        return self._leaf(
            builder.add_extension(
                x509.SubjectAlternativeName(names), critical=False
            ).add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
            )
        )

    def _leaf(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        authority = self._root.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value
        return (
            builder.add_extension(
                x509.BasicConstraints(ca=False, path_length=None), critical=True
            )
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    authority
                ),
                critical=False,
            )
            .sign(self._key, SHA256())
        )

    def _serves(self, pem: bytes, names: list[x509.GeneralName], now: datetime) -> bool:
        """Whether a server.pem is ours, names exactly `names` and lasts a while."""
        begin = pem.find(b"-----BEGIN CERTIFICATE-----")
        if begin < 0:
            return False
        try:
            key = _load_key(pem[:begin], "server.pem")
            leaf = x509.load_pem_x509_certificate(pem[begin:])
            leaf.verify_directly_issued_by(self._root)
            found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (
            TrustError,
            ValueError,
            TypeError,
            InvalidSignature,
            x509.ExtensionNotFound,
        ):
            return False
        return (
            list(found.value) == names
            and _spki(leaf.public_key()) == _spki(key.public_key())
            and leaf.not_valid_after_utc - now > _RENEW_SERVER
        )


def read_request(pem: str) -> DeviceKey:
    """Check a certificate request and take its public key.

    Raises:
        TrustError: Too large, not PKCS #10, another kind of key, or not signed by it.
    """
    if len(pem) > MAX_CSR_BYTES:
        raise TrustError(
            f"csr: expected at most {MAX_CSR_BYTES} characters, found {len(pem)}"
        )
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key = csr.public_key()
        signed = csr.is_signature_valid
    except (ValueError, TypeError) as exc:
        raise TrustError("csr: expected a PKCS #10 request in PEM") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        key.curve, ec.SECP256R1
    ):
        raise TrustError("csr: expected a P-256 key, found another kind")
    if not signed:
        raise TrustError("csr: expected a request signed by its own key")
    return DeviceKey(key=key, sha256=sha256(_spki(key)).hexdigest())


def _root(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    public = key.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kedge root")])
    return (
        _builder("kedge root", name, public, now, ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public), critical=False
        )
        .sign(key, SHA256())
    )


def _builder(
    common_name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(pem: bytes, name: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:
        raise TrustError(f"{name}: expected a private key in PEM") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TrustError(f"{name}: expected an elliptic curve key")
    return key


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TrustError("expected an elliptic curve key")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
