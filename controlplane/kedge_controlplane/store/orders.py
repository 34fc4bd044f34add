# SPDX-License-Identifier: Apache-2.0
"""The newest signed order of each device, as it was or will be sent."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select

from kedge_controlplane.store.source import Source
from kedge_controlplane.store.tables import ORDERS
from kedge_controlplane.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    namespace: str
    device: str
    generation: int
    template_version: str  # empty: run nothing
    content_digest: str  # of what the order says, without generation and expiry
    envelope: bytes
    expires: datetime


async def put(transaction: Transaction, order: Order) -> None:
    """Store a device's order in place of its last one."""
    await remove(transaction, order.namespace, order.device)
    values = {column.name: getattr(order, column.name) for column in ORDERS.columns}
    await transaction.execute(insert(ORDERS).values(values))


async def find(source: Source, namespace: str, device: str) -> Order | None:
    rows = await source.fetch(
        select(ORDERS).where(ORDERS.c.namespace == namespace, ORDERS.c.device == device)
    )
    return Order(**rows[0]) if rows else None


async def devices(source: Source) -> set[tuple[str, str]]:
    """Namespaces and names of the devices that have an order."""
    rows = await source.fetch(select(ORDERS.c.namespace, ORDERS.c.device))
    return {(row["namespace"], row["device"]) for row in rows}


async def remove(transaction: Transaction, namespace: str, device: str) -> None:
    await transaction.execute(
        delete(ORDERS).where(ORDERS.c.namespace == namespace, ORDERS.c.device == device)
    )
