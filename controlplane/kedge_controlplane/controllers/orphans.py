# SPDX-License-Identifier: Apache-2.0
"""Devices that name a fleet which is deleted: they stop naming it and run on.

What a device shall run stays as it is, so its TemplateVersion stays as well, for as
long as the device names that. A crash between two transactions leaves devices that
still name the fleet; `named_by` finds them at the next start.
"""

from datetime import timedelta
from typing import Any

from kedge_controlplane.controllers.rollout import ASSIGN_AT_ONCE
from kedge_controlplane.errors import ConflictError, NotFoundError
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.reconcile.loop import Key
from kedge_controlplane.store.page import Query
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction


def named_by(device: dict[str, Any]) -> Key | None:
    """Return the fleet that a device's document names, if it names one."""
    fleet = device.get("spec", {}).get("fleet")
    return Key(device["metadata"]["namespace"], fleet) if fleet else None


async def release_devices(store: Store, fleet: Key) -> timedelta | None:
    """Have devices name a deleted fleet no more.

    Returns:
        No wait where more devices are left than one transaction may hold.

    Raises:
        ConflictError: The fleet was made again.
    """
    page = await store.documents(Device, Query(namespace=fleet.namespace))
    found = [d["metadata"]["name"] for d in page.items if named_by(d) == fleet]
    if not found:
        return None

    async def work(transaction: Transaction) -> None:
        if await _exists(transaction, fleet):
            raise ConflictError(f"fleet {fleet} was made again")
        for name in found[:ASSIGN_AT_ONCE]:
            await _release(transaction, fleet, name)

    await store.write(work)
    return timedelta() if len(found) > ASSIGN_AT_ONCE else None


async def _release(transaction: Transaction, fleet: Key, name: str) -> None:
    try:
        device = await transaction.get(Device, fleet.namespace, name)
    except NotFoundError:
        return
    if device.spec.fleet == fleet.name:
        device.spec.fleet = ""
        await transaction.update(device)


async def _exists(transaction: Transaction, fleet: Key) -> bool:
    try:
        await transaction.get(Fleet, fleet.namespace, fleet.name)
    except NotFoundError:
        return False
    return True
