# SPDX-License-Identifier: Apache-2.0
"""PublisherKeys: public keys in securesystemslib's terms, checked before use."""

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer._key import SSlibKey

from kedge_controlplane.admission.causes import invalid
from kedge_controlplane.errors import Cause
from kedge_controlplane.model.publisher import PublisherKey, PublisherKeySpec

MIN_RSA_BITS: Final = 2048

_SCHEMES: Final = {
    "ed25519": ("ed25519",),
    "ecdsa": ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    "rsa": ("rsassa-pss-sha256", "rsassa-pss-sha384", "rsassa-pss-sha512"),
}


def check_key(key: PublisherKey) -> list[Cause]:
    """Say why a key cannot be used, or under which id it goes."""
    spec = key.spec
    if spec.scheme not in _SCHEMES[spec.keytype]:
        schemes = ", ".join(_SCHEMES[spec.keytype])
        return [
            invalid("spec.scheme", f"expected one of {schemes}, found {spec.scheme!r}")
        ]
    try:
        public = _load(spec)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        return [invalid("spec.public", f"expected a public key: {exc}")]
    if isinstance(public, RSAPublicKey) and public.key_size < MIN_RSA_BITS:
        return [
            invalid(
                "spec.public",
                f"expected at least {MIN_RSA_BITS} bits, found {public.key_size}",
            )
        ]
    scheme = spec.scheme if spec.keytype == "rsa" else None
    try:
        real = SSlibKey.from_crypto(public, scheme=scheme)
    except ValueError as exc:  # a curve that it does not know
        return [invalid("spec.public", f"expected a key that devices can use: {exc}")]
    return [
        invalid(f"spec.{field}", f"expected {wanted!r}, found {found!r}")
        for field, wanted, found in (
            ("scheme", real.scheme, spec.scheme),
            ("public", real.keyval["public"], spec.public),
            ("keyid", real.keyid, spec.keyid),
        )
        if wanted != found
    ]


def verification_key(key: PublisherKey) -> SSlibKey:
    """The key that verifies signatures; `check_key` found nothing against it."""
    spec = key.spec
    return SSlibKey(spec.keyid, spec.keytype, spec.scheme, {"public": spec.public})


def _load(
    spec: PublisherKeySpec,
) -> Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey:
    wanted = {
        "ed25519": Ed25519PublicKey,
        "ecdsa": EllipticCurvePublicKey,
        "rsa": RSAPublicKey,
    }[spec.keytype]
    if spec.keytype == "ed25519":
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(spec.public))
    public = load_pem_public_key(spec.public.encode())
    if not isinstance(public, EllipticCurvePublicKey | RSAPublicKey) or not isinstance(
        public, wanted
    ):
        raise ValueError(  # noqa: TRY004 - one error for one bad value
            f"expected {spec.keytype}, found {type(public).__name__}"
        )
    return public
