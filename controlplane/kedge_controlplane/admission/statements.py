# SPDX-License-Identifier: Apache-2.0
"""A publisher's signed statement: opened only when a key of its namespace signed it."""

from collections.abc import Iterable

from kedge_controlplane.admission.publisher_keys import verification_key
from kedge_controlplane.errors import TrustError
from kedge_controlplane.model.artifact import DsseEnvelope
from kedge_controlplane.model.publisher import PublisherKey
from kedge_controlplane.trust.statements import to_wire
from kedge_wire import dsse
from kedge_wire.statement import Statement, StatementError


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
        wire = to_wire(envelope, what=what)
        payload = dsse.verify(wire, dsse.ARTIFACT_TYPE, trusted, what=what)
        return Statement.from_bytes(payload)
    except dsse.SignatureError as exc:
        raise TrustError(f"{exc}; `kedge keys register` adds a key") from exc
    except StatementError as exc:
        raise TrustError(f"{what}: {exc}") from exc
