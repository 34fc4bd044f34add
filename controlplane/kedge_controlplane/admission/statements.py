# SPDX-License-Identifier: Apache-2.0
"""A publisher's signed statement: opened only when a key of its namespace signed it."""

import base64
import binascii
from collections.abc import Iterable

from kedge_controlplane.admission.publisher_keys import verification_key
from kedge_controlplane.errors import TrustError
from kedge_controlplane.model.artifact import DsseEnvelope, DsseSignature
from kedge_controlplane.model.publisher import PublisherKey
from kedge_wire import dsse
from kedge_wire.statement import Statement, StatementError
from kedge_wire.v1.order_pb2 import Envelope, Signature


def verified_statement(
    envelope: DsseEnvelope, keys: Iterable[PublisherKey], *, what: str
) -> Statement:
    """Open a statement that one of `keys` signed.

    Args:
        envelope: As received.
        keys: The namespace's; each passed `check_key`.
        what: The object that carries the statement, for the message.

    Raises:
        TrustError: Not base64, not signed by any of them, or not a statement.
    """
    trusted = [verification_key(key) for key in keys]
    try:
        payload = dsse.verify(to_wire(envelope), dsse.ARTIFACT_TYPE, trusted, what=what)
        return Statement.from_bytes(payload)
    except binascii.Error as exc:
        raise TrustError(f"{what}: expected base64 in its statement: {exc}") from exc
    except dsse.SignatureError as exc:
        raise TrustError(f"{exc}; `kedge keys register` adds a key") from exc
    except StatementError as exc:
        raise TrustError(f"{what}: {exc}") from exc


def to_wire(envelope: DsseEnvelope) -> Envelope:
    """DSSE's JSON form to the message that devices get. Raises binascii.Error."""
    return Envelope(
        payload_type=envelope.payload_type,
        payload=base64.b64decode(envelope.payload, validate=True),
        signatures=[
            Signature(keyid=s.keyid, sig=base64.b64decode(s.sig, validate=True))
            for s in envelope.signatures
        ],
    )


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
