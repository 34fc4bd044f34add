# SPDX-License-Identifier: Apache-2.0
"""Tells who calls: a bearer token whose hash we know, or a device's certificate.

That a certificate is ours and in its time was proved by TLS before a request existed;
here it must also be known, not revoked, and of a device that still exists. A bearer
token wins over a certificate. Nothing is cached: what is revoked is refused at the next
request.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

from kedge_controlplane.api.seams import Principal, PrincipalKind
from kedge_controlplane.errors import NotFoundError, TrustError, UnauthorizedError
from kedge_controlplane.model.device import Device
from kedge_controlplane.store import certificates, tokens
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.identity import identity_from_der
from kedge_controlplane.trust.tokens import Purpose, read_token

_KINDS = {
    Purpose.OPERATOR: PrincipalKind.OPERATOR,
    Purpose.ENROLMENT: PrincipalKind.ENROLMENT,
}


class StoreAuthenticator:
    """Looks tokens and certificates up in the store."""

    def __init__(self, store: Store, *, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    async def authenticate(
        self, headers: Mapping[str, str], peer_certificate: bytes | None
    ) -> Principal:
        """Return who calls; raises UnauthorizedError."""
        token = bearer_token(headers)
        if token:
            return await self._by_token(token)
        if peer_certificate is not None:
            return await self._by_certificate(peer_certificate)
        raise UnauthorizedError(
            "expected a bearer token or a device certificate, found neither"
        )

    async def _by_token(self, text: str) -> Principal:
        try:
            presented = read_token(text)
        except TrustError as error:
            raise UnauthorizedError(str(error)) from error
        stored = await tokens.find(self._store, presented.id)
        if (
            stored is None
            or stored.purpose != presented.purpose
            or not presented.matches(stored.secret_sha256)
        ):
            raise UnauthorizedError("token: unknown")
        if stored.expired(self._clock()):
            raise UnauthorizedError("token: expired")
        kind = _KINDS[presented.purpose]
        return Principal(
            kind=kind,
            name=stored.user if kind is PrincipalKind.OPERATOR else stored.id,
            namespace=stored.namespace,
            groups=stored.groups,
        )

    async def _by_certificate(self, der: bytes) -> Principal:
        try:
            identity = identity_from_der(der)
        except TrustError as error:
            raise UnauthorizedError(str(error)) from error
        issued = await certificates.find(self._store, identity.serial)
        if issued is None or issued.revoked_at is not None:
            raise UnauthorizedError("certificate: unknown or revoked")
        try:
            await self._store.get(Device, identity.namespace, identity.device)
        except NotFoundError as error:
            raise UnauthorizedError(
                f"certificate: device {identity} does not exist"
            ) from error
        return Principal(
            kind=PrincipalKind.DEVICE,
            name=identity.device,
            namespace=identity.namespace,
        )


def bearer_token(headers: Mapping[str, str]) -> str:
    """Return the token in an Authorization header; empty if there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
