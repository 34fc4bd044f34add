# SPDX-License-Identifier: Apache-2.0
"""When each device was last heard of. Beats end here and never become object writes."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects.sqlite import insert

from kedge_controlplane.store.source import Source
from kedge_controlplane.store.tables import LEASES
from kedge_controlplane.store.transaction import Transaction

DeviceKey = tuple[str, str]  # namespace, name


async def renew(transaction: Transaction, seen: Mapping[DeviceKey, datetime]) -> None:
    """Record when devices were seen; many in one statement."""
    if not seen:
        return
    statement = insert(LEASES).values(
        namespace=bindparam("in_namespace"),
        device=bindparam("in_device"),
        last_seen=bindparam("in_seen"),
    )
    statement = statement.on_conflict_do_update(
        index_elements=[LEASES.c.namespace, LEASES.c.device],
        set_={"last_seen": statement.excluded.last_seen},
    )
    rows = [
        {"in_namespace": namespace, "in_device": device, "in_seen": moment}
        for (namespace, device), moment in seen.items()
    ]
    await transaction.execute(statement, rows)


async def all_seen(source: Source) -> dict[DeviceKey, datetime]:
    rows = await source.fetch(select(LEASES))
    return {(row["namespace"], row["device"]): row["last_seen"] for row in rows}


async def remove(transaction: Transaction, namespace: str, device: str) -> None:
    await transaction.execute(
        delete(LEASES).where(LEASES.c.namespace == namespace, LEASES.c.device == device)
    )
