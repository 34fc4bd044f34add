# SPDX-License-Identifier: Apache-2.0
"""Who a device certificate speaks for: the SPIFFE URI in it, and nothing else of it.

Whether the certificate is ours and valid is decided by TLS, whether it was revoked by
the store.
"""

import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from kedge_controlplane.errors import TrustError

_SPIFFE: Final = re.compile(
    r"spiffe://kedge/tenant/([a-z0-9][a-z0-9.-]{0,252})/device/(d-[0-9a-f]{16})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIdentity:
    namespace: str
    device: str
    serial: str  # lower-case hex without leading zeros, as in the certificate table

    def __str__(self) -> str:
        return f"{self.namespace}/{self.device}"


def spiffe_uri(namespace: str, device: str) -> str:
    """Return the name that a device's certificate carries."""
    return f"spiffe://kedge/tenant/{namespace}/device/{device}"


def serial_text(serial: int) -> str:
    """Write a certificate's serial number as the store keeps it."""
    return f"{serial:x}"


def identity_from_pem(pem: bytes) -> DeviceIdentity:
    """Read the identity out of a certificate that TLS has verified.

    Raises:
        TrustError: Not a certificate, or not one of a device.
    """
    try:
        return identity_of(x509.load_pem_x509_certificate(pem))
    except ValueError as exc:
        raise TrustError("expected a certificate in PEM") from exc


def identity_from_der(der: bytes) -> DeviceIdentity:
    """As `identity_from_pem`, from DER."""
    try:
        return identity_of(x509.load_der_x509_certificate(der))
    except ValueError as exc:
        raise TrustError("expected a certificate in DER") from exc


def identity_of(certificate: x509.Certificate) -> DeviceIdentity:
    """Read the identity out of a verified certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    match = _SPIFFE.fullmatch(uris[0]) if len(uris) == 1 else None
    if match is None:
        raise TrustError(
            "certificate: expected one URI name "
            f"{spiffe_uri('<namespace>', '<device>')}, found {uris or 'none'!r:.200}"
        )
    return DeviceIdentity(
        namespace=match[1],
        device=match[2],
        serial=serial_text(certificate.serial_number),
    )
