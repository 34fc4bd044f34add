# SPDX-License-Identifier: Apache-2.0
"""A publisher's statement between its two forms: DSSE's JSON and the wire's message.

Pure; who signed it is somebody else's question.
"""

import base64

from kedge_controlplane.errors import TrustError
from kedge_controlplane.model.artifact import DsseEnvelope, DsseSignature
from kedge_wire.v1.order_pb2 import Envelope, Signature


def to_wire(envelope: DsseEnvelope, *, what: str) -> Envelope:
    """DSSE's JSON form to the message that devices get.

    Args:
        envelope: As received.
        what: The object that carries it, for the message.

    Raises:
        TrustError: Not base64.
    """
    try:
        return Envelope(
            payload_type=envelope.payload_type,
            payload=base64.b64decode(envelope.payload, validate=True),
            signatures=[
                Signature(keyid=s.keyid, sig=base64.b64decode(s.sig, validate=True))
                for s in envelope.signatures
            ],
        )
    except ValueError as exc:  # also what base64 says to text that is not ASCII
        raise TrustError(f"{what}: expected base64 in its statement: {exc}") from exc


def from_wire(envelope: Envelope) -> DsseEnvelope:
    """The message that devices get to DSSE's JSON form."""
    return DsseEnvelope(
        payload_type=envelope.payload_type,
        payload=base64.b64encode(envelope.payload).decode(),
        signatures=[
            DsseSignature(keyid=s.keyid, sig=base64.b64encode(s.sig).decode())
            for s in envelope.signatures
        ],
    )
