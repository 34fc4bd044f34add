# SPDX-License-Identifier: Apache-2.0
"""DSSE envelopes between the wire message and securesystemslib.

Source: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md. A signature
covers the payload's type and bytes, so a signed order can never pass for a signed
statement.
"""

from collections.abc import Iterable
from typing import Final

from securesystemslib.dsse import Envelope as DsseEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import Key
from securesystemslib.signer._signature import Signature
from securesystemslib.signer._signer import Signer

from kedge_wire.v1.order_pb2 import Envelope
from kedge_wire.v1.order_pb2 import Signature as WireSignature

ORDER_TYPE: Final = "application/vnd.kedge.order.v1+protobuf"
ARTIFACT_TYPE: Final = "application/vnd.kedge.artifact.v1+json"

MAX_SIGNATURES: Final = 8
"""More signatures than any policy asks for; each costs one verification."""


class SignatureError(Exception):
    """An envelope that no trusted key signed, or one of another type."""


def sign(payload: bytes, payload_type: str, signer: Signer) -> Envelope:
    """Sign `payload` as `payload_type`."""
    dsse = DsseEnvelope(payload, payload_type, {})
    dsse.sign(signer)
    return Envelope(
        payload_type=payload_type,
        payload=payload,
        signatures=[
            WireSignature(keyid=keyid, sig=bytes.fromhex(signature.signature))
            for keyid, signature in dsse.signatures.items()
        ],
    )


def verify(
    envelope: Envelope, expected_type: str, keys: Iterable[Key], *, what: str
) -> bytes:
    """Return the payload if one of `keys` signed it as `expected_type`.

    Args:
        envelope: As received; nothing in it is believed before this returns.
        expected_type: One of the types above.
        keys: Trusted keys; one valid signature of any of them suffices.
        what: What the envelope is about, for the message.

    Raises:
        SignatureError: Another type, too many signatures, or none that verifies.
    """
    if envelope.payload_type != expected_type:
        raise SignatureError(
            f"{what}: expected an envelope of type {expected_type}, "
            f"found {envelope.payload_type or 'none'}"
        )
    if len(envelope.signatures) > MAX_SIGNATURES:
        raise SignatureError(
            f"{what}: expected at most {MAX_SIGNATURES} signatures, "
            f"found {len(envelope.signatures)}"
        )
    trusted = list(keys)
    dsse = DsseEnvelope(
        envelope.payload,
        envelope.payload_type,
        {s.keyid: Signature(s.keyid, s.sig.hex()) for s in envelope.signatures},
    )
    try:
        dsse.verify(trusted, 1)
    except (VerificationError, ValueError) as exc:
        signers = ", ".join(sorted({s.keyid[:12] for s in envelope.signatures}))
        wanted = ", ".join(sorted({key.keyid[:12] for key in trusted}))
        raise SignatureError(
            f"{what}: expected a signature by {wanted or 'no key (none is trusted)'}, "
            f"found {signers or 'none'} not valid under it"
        ) from exc
    return envelope.payload
