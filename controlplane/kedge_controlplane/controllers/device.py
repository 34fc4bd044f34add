# SPDX-License-Identifier: Apache-2.0
"""Devices: what a device shall run becomes a signed order, which reaches the device.

    spec.templateVersion differs ────────────┐
    the order is near its end ───────────────┼─▶ sign the next generation: orders row
    the device knows a newer order than we ──┘   and status.order in one transaction
    the device knows an older order ───────────▶ push the stored one
    summary or update state differ ────────────▶ write them

The generation is taken inside the transaction and is above every one that the status,
the orders row or the device names: it never repeats with other content, and a database
restored from a backup goes on where its devices are. A crash after COMMIT and before
the push costs nothing: the device says its generation when it connects, and the stored
order is pushed. The orders of devices that are away are renewed when they come back.
"""

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from kedge_controlplane.controllers.seams import Leases, Sessions
from kedge_controlplane.errors import (
    ConflictError,
    NotFoundError,
    PermanentError,
    TrustError,
)
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.meta import (
    Condition,
    ConditionStatus,
    Resource,
    set_condition,
)
from kedge_controlplane.model.template_version import TemplateVersion
from kedge_controlplane.reconcile.clock import Clock
from kedge_controlplane.reconcile.loop import Controller, Key
from kedge_controlplane.rollout import reading
from kedge_controlplane.store import certificates, leases, orders
from kedge_controlplane.store.page import Query
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction
from kedge_controlplane.store.watch import Event
from kedge_controlplane.trust.director import ORDER_LIFE, Director, content_digest
from kedge_wire.v1.order_pb2 import Envelope

logger = logging.getLogger(__name__)

SPEC_VALID: Final = "SpecValid"

RENEW_BEFORE: Final = ORDER_LIFE / 3
"""Orders of connected devices are renewed when this much of their life is left."""

MAX_GENERATION: Final = 2**63 - 1
"""What the database can hold; only a device that lies names a higher one."""

REPEAT: Final = timedelta(seconds=30)
"""An order that a connected device does not acknowledge is sent again."""


class DeviceController(Controller):
    """Reconciles devices."""

    name = "devices"

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        director: Director,
        sessions: Sessions,
        leases: Leases,
    ) -> None:
        self._store = store
        self._clock = clock
        self._director = director
        self._sessions = sessions
        self._leases = leases

    def keys_of(self, event: Event[Resource]) -> Iterable[Key]:
        if event.cls is Device:
            yield Key(event.record.namespace, event.record.name)

    async def all_keys(self) -> Iterable[Key]:
        page = await self._store.documents(Device, Query())
        return {
            *(
                Key(item["metadata"]["namespace"], item["metadata"]["name"])
                for item in page.items
            ),
            # What a device that is gone left behind, if nobody saw it go.
            *(Key(*device) for device in await leases.all_seen(self._store)),
            *(Key(*device) for device in await orders.devices(self._store)),
            *(Key(*device) for device in await certificates.devices(self._store)),
        }

    async def reconcile(self, key: Key) -> timedelta | None:
        try:
            device = await self._store.get(Device, key.namespace, key.name)
        except NotFoundError:
            await self._forget(key)
            return None
        device = await (
            self._order(key) if self._due(device) else self._observe(device)
        )
        return await self._deliver(key, device)

    async def record(self, key: Key, error: PermanentError) -> None:
        device = await self._store.get(Device, key.namespace, key.name)
        self._set_valid(device, error)
        await self._store.update_status(device)

    def _due(self, device: Device) -> bool:
        """Whether a new order must be signed."""
        order = device.status.order
        if device.spec.template_version != order.template_version:
            return True
        known = self._sessions.generation(_key(device))
        if known is None or order.expires is None:  # away, or nothing ordered yet
            return False
        return (
            known > order.generation or order.expires - self._clock.now() < RENEW_BEFORE
        )

    async def _order(self, key: Key) -> Device:
        async def work(transaction: Transaction) -> Device:
            device = await transaction.get(Device, key.namespace, key.name)
            if not self._due(device):
                return device
            order = await self._sign(transaction, device)
            await orders.put(transaction, order)
            logger.info(
                "order signed device=%s generation=%d template=%s",
                key,
                order.generation,
                order.template_version,
            )
            return await transaction.update_status(device)

        return await self._store.write(work)

    async def _sign(self, transaction: Transaction, device: Device) -> orders.Order:
        """Sign the next order and note it in the device's status."""
        wanted, now = device.spec.template_version, self._clock.now()
        template = await _template(transaction, device.namespace, wanted)
        order, expires = device.status.order, now + ORDER_LIFE
        generation = await self._next_generation(transaction, device)
        try:
            envelope = self._director.sign_order(
                device=device.name,
                namespace=device.namespace,
                generation=generation,
                template=template,
                now=now,
            )
        except TrustError as exc:
            raise PermanentError(str(exc)) from exc
        goes_on = order.generation > 0 and generation == order.generation + 1
        if order.template_version != wanted or not goes_on:
            order.template_generation, order.since = generation, now
        order.generation, order.template_version = generation, wanted
        order.expires = expires
        self._set_valid(device, None)
        self._describe(device)
        return orders.Order(
            namespace=device.namespace,
            device=device.name,
            generation=generation,
            template_version=wanted,
            content_digest=content_digest(envelope),
            envelope=envelope.SerializeToString(),
            expires=expires,
        )

    async def _next_generation(self, transaction: Transaction, device: Device) -> int:
        row = await orders.find(transaction, device.namespace, device.name)
        newest = max(
            device.status.order.generation,
            row.generation if row else 0,
            self._sessions.generation(_key(device)) or 0,
        )
        if newest >= MAX_GENERATION:
            raise PermanentError(
                f"expected a device that knows an order below {MAX_GENERATION}, "
                f"found {newest}: delete the device and enrol it again"
            )
        return newest + 1

    async def _observe(self, device: Device) -> Device:
        before = device.status.model_copy(deep=True)
        self._describe(device)
        if device.status == before:
            return device
        return await self._store.update_status(device)

    def _describe(self, device: Device) -> None:
        """Derive the summaries that people read."""
        key, status = _key(device), device.status
        fresh = self._leases.fresh(key)
        if fresh is not None:  # otherwise what is stored is the best that we know
            if not fresh:
                status.last_seen = self._leases.last_seen(key) or status.last_seen
            closed = self._leases.closed(key)
            status.summary = reading.summary(device, fresh=fresh, closed=closed)
        status.updated = reading.updated(device)

    async def _deliver(self, key: Key, device: Device) -> timedelta | None:
        known, order = self._sessions.generation(key), device.status.order
        if known is None:
            return None
        if known < order.generation:
            row = await orders.find(self._store, key.namespace, key.name)
            if row is not None:
                self._sessions.push(key, Envelope.FromString(row.envelope))
            return REPEAT
        if order.expires is None:
            return None
        return order.expires - RENEW_BEFORE - self._clock.now()

    async def _forget(self, key: Key) -> None:
        """The device was deleted: nobody may come with its certificates any more."""
        self._sessions.end(key, "the device was deleted")
        self._leases.forget(key)
        now = self._clock.now()

        async def work(transaction: Transaction) -> None:
            if await _exists(transaction, key):
                raise ConflictError(f"device {key} was made again")
            await certificates.revoke_device(
                transaction, key.namespace, key.name, at=now
            )
            await orders.remove(transaction, key.namespace, key.name)
            await leases.remove(transaction, key.namespace, key.name)

        await self._store.write(work)

    def _set_valid(self, device: Device, error: PermanentError | None) -> None:
        condition = Condition(
            type=SPEC_VALID,
            status=ConditionStatus.FALSE if error else ConditionStatus.TRUE,
            reason="Invalid" if error else "Valid",
            message=str(error or ""),
            last_transition_time=self._clock.now(),
            observed_generation=device.metadata.generation,
        )
        device.status.conditions = set_condition(device.status.conditions, condition)


async def _template(
    transaction: Transaction, namespace: str, name: str
) -> TemplateVersion | None:
    if not name:
        return None
    try:
        return await transaction.get(TemplateVersion, namespace, name)
    except NotFoundError as exc:
        raise PermanentError(
            f"expected TemplateVersion {name}, found none in namespace {namespace}"
        ) from exc


async def _exists(transaction: Transaction, key: Key) -> bool:
    try:
        await transaction.get(Device, key.namespace, key.name)
    except NotFoundError:
        return False
    return True


def _key(device: Device) -> Key:
    return Key(device.namespace, device.name)
