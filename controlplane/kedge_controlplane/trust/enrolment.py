# SPDX-License-Identifier: Apache-2.0
"""Enrolment: a one-time token and a certificate request become a device.

    token valid? ─┬─ unused ──────────────▶ one transaction: EnrollmentRequest, Device,
                  │                         certificate, and the token is used
                  ├─ used by the same key ─▶ the same answer again
                  └─ anything else ────────▶ refused

The request is named after its token, so a device that lost the answer asks again and
gets it. A crash leaves the token unused or everything in place. Of the certificate
request only the public key counts.
"""

import secrets
from collections.abc import Callable
from datetime import datetime

from kedge_controlplane.errors import (
    Cause,
    InvalidError,
    TrustError,
    UnauthorizedError,
)
from kedge_controlplane.model.device import Device, DeviceStatus, SystemInfo
from kedge_controlplane.model.enrollment import (
    EnrollmentPhase,
    EnrollmentRequest,
    EnrollmentRequestStatus,
)
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.store import certificates, tokens
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction
from kedge_controlplane.trust.ca import CertificateAuthority, DeviceKey, read_request
from kedge_controlplane.trust.tokens import PresentedToken, Purpose, read_token


class Enrolment:
    """Lets devices in."""

    def __init__(
        self,
        *,
        store: Store,
        authority: CertificateAuthority,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._authority = authority
        self._now = now

    async def enrol(self, request: EnrollmentRequest, token: str) -> EnrollmentRequest:
        """Approve a request that comes with a good token; return it as stored.

        Raises:
            UnauthorizedError: The token is unknown, expired, used, or for another
                namespace.
            InvalidError: The certificate request is not acceptable.
        """
        try:
            presented = read_token(token)
        except TrustError as exc:
            raise _unknown() from exc
        try:
            key = read_request(request.spec.csr)
        except TrustError as exc:
            cause = Cause(
                reason="FieldValueInvalid", message=str(exc), field="spec.csr"
            )
            raise InvalidError(
                f"enrollment request is invalid: {exc}",
                kind="enrollmentrequests",
                causes=[cause],
            ) from exc

        async def work(transaction: Transaction) -> EnrollmentRequest:
            return await self._admit(transaction, request, presented, key)

        return await self._store.write(work)

    async def _admit(
        self,
        transaction: Transaction,
        request: EnrollmentRequest,
        presented: PresentedToken,
        key: DeviceKey,
    ) -> EnrollmentRequest:
        now = self._now()
        found = await tokens.find(transaction, presented.id)
        row = _checked(found, presented, request.namespace)
        name = f"er-{presented.id}"
        if row.used_at is not None:
            if row.used_by != key.sha256:
                raise UnauthorizedError(
                    "the enrolment token was used by another device: make a new one"
                )
            return await transaction.get(EnrollmentRequest, request.namespace, name)
        if row.expired(now):
            raise UnauthorizedError("the enrolment token has expired: make a new one")
        await tokens.mark_used(transaction, row.id, at=now, by=key.sha256)
        return await self._create(
            transaction, request, key, name=name, labels=dict(row.labels), now=now
        )

    async def _create(
        self,
        transaction: Transaction,
        request: EnrollmentRequest,
        key: DeviceKey,
        *,
        name: str,
        labels: dict[str, str],
        now: datetime,
    ) -> EnrollmentRequest:
        namespace, device = request.namespace, f"d-{secrets.token_hex(8)}"
        issued = self._authority.issue_device(
            key, namespace=namespace, device=device, now=now
        )
        await certificates.add(
            transaction,
            certificates.Certificate(
                serial=issued.serial,
                namespace=namespace,
                device=device,
                not_after=issued.not_after,
                public_key_sha256=key.sha256,
            ),
        )
        await transaction.create(_device(request, device, labels))
        return await transaction.create(
            EnrollmentRequest(
                metadata=ObjectMeta(name=name, namespace=namespace),
                spec=request.spec,
                status=EnrollmentRequestStatus(
                    phase=EnrollmentPhase.APPROVED,
                    device=device,
                    certificate=issued.pem,
                    labels=labels,
                ),
            )
        )


def _checked(
    row: tokens.Token | None, presented: PresentedToken, namespace: str
) -> tokens.Token:
    if (
        row is None
        or presented.purpose is not Purpose.ENROLMENT
        or row.purpose != Purpose.ENROLMENT
        or not presented.matches(row.secret_sha256)
    ):
        raise _unknown()
    if row.namespace != namespace:
        raise UnauthorizedError(
            f"the enrolment token is for namespace {row.namespace}, not {namespace}"
        )
    return row


def _unknown() -> UnauthorizedError:
    return UnauthorizedError("the enrolment token is unknown: make a new one")


def _device(request: EnrollmentRequest, name: str, labels: dict[str, str]) -> Device:
    facts = request.spec
    return Device(
        metadata=ObjectMeta(name=name, namespace=request.namespace, labels=labels),
        status=DeviceStatus(
            system_info=SystemInfo(
                hostname=facts.hostname,
                architecture=facts.architecture,
                operating_system=facts.operating_system,
                cpus=facts.cpus,
                memory_bytes=facts.memory_bytes,
            )
        ),
    )
