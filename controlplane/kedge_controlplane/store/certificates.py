# SPDX-License-Identifier: Apache-2.0
"""Device certificates that we issued, so that they can be revoked."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select, update

from kedge_controlplane.store.source import Source
from kedge_controlplane.store.tables import CERTIFICATES
from kedge_controlplane.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    serial: str  # lower-case hex
    namespace: str
    device: str
    not_after: datetime
    public_key_sha256: str
    revoked_at: datetime | None = None


async def add(transaction: Transaction, certificate: Certificate) -> None:
    values = {
        column.name: getattr(certificate, column.name)
        for column in CERTIFICATES.columns
    }
    await transaction.execute(insert(CERTIFICATES).values(values))


async def find(source: Source, serial: str) -> Certificate | None:
    rows = await source.fetch(
        select(CERTIFICATES).where(CERTIFICATES.c.serial == serial)
    )
    return Certificate(**rows[0]) if rows else None


async def devices(source: Source) -> set[tuple[str, str]]:
    """Namespaces and names of the devices that have an unrevoked certificate."""
    rows = await source.fetch(
        select(CERTIFICATES.c.namespace, CERTIFICATES.c.device)
        .where(CERTIFICATES.c.revoked_at.is_(None))
        .distinct()
    )
    return {(row["namespace"], row["device"]) for row in rows}


async def revoke_device(
    transaction: Transaction, namespace: str, device: str, *, at: datetime
) -> int:
    """Revoke what a device still has; return how many certificates that was."""
    statement = (
        update(CERTIFICATES)
        .where(
            CERTIFICATES.c.namespace == namespace,
            CERTIFICATES.c.device == device,
            CERTIFICATES.c.revoked_at.is_(None),
        )
        .values(revoked_at=at)
    )
    return await transaction.execute(statement)
