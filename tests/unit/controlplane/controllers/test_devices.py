# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from kedge_controlplane.controllers.device import RENEW_BEFORE
from kedge_controlplane.model.device import (
    Device,
    OrderStatus,
    SummaryStatus,
    UpdatedStatus,
)
from kedge_controlplane.sessions.leases import RECONNECT_WITHIN
from kedge_controlplane.store import certificates, leases, orders
from kedge_controlplane.trust.director import ORDER_LIFE
from kedge_wire.v1.order_pb2 import Order
from kedge_wire.v1.report_pb2 import Report
from tests.simulators.controlplane import NAMESPACE, fleet, release
from tests.unit.controlplane.controllers.world import (
    SECOND,
    WAIT_S,
    World,
    running_world,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as world:
        yield world


def silent(order: Order) -> Report | None:
    del order
    return None


def world_timeout() -> asyncio.Timeout:
    return asyncio.timeout(WAIT_S)


async def advance_until(world: World, holds: Callable[[Device], bool]) -> None:
    """Let time pass in the steps of the lease book."""
    async with world_timeout():
        while not holds(await world.get(Device, "d0")):
            world.clock.advance(5 * SECOND)
            await world.resync()


async def ordered(world: World, name: str, generation: int = 1) -> Device:
    return await world.until(
        Device, name, lambda d: d.status.order.generation == generation
    )


async def test_device_without_a_fleet_gets_no_order(world: World) -> None:
    device = await world.add_device("d0")
    await world.until(
        Device, "d0", lambda d: d.status.summary.status is SummaryStatus.ONLINE
    )
    await world.resync()
    assert not device.orders
    assert await orders.find(world.store, NAMESPACE, "d0") is None


async def test_order_waits_for_a_device_that_is_away(world: World) -> None:
    device = await world.add_device("d0", connected=False)
    await world.store.create(fleet("cams", await release(world.store, "1")))
    await ordered(world, "d0")
    await world.resync()
    assert not device.orders
    world.connect(device)
    await world.until(
        Device, "d0", lambda d: d.status.updated.status is UpdatedStatus.UP_TO_DATE
    )
    assert [order.generation for order in device.orders] == [1]


async def test_order_is_sent_again_until_it_is_known(world: World) -> None:
    device = await world.add_device("d0", answer=silent)
    world.hub.close(device)
    await world.store.create(fleet("cams", await release(world.store, "1")))
    await ordered(world, "d0")
    device.generation = 0
    deaf = device.send
    sent: list[object] = []
    device.send = sent.append  # type: ignore[method-assign, assignment] # loses messages
    world.connect(device)
    await world.resync()
    assert sent
    device.send = deaf  # type: ignore[method-assign]
    world.clock.advance(30 * SECOND)
    await world.resync()
    async with world_timeout():
        while not device.orders:
            await world.resync()


async def test_order_is_renewed_before_it_expires(world: World) -> None:
    device = await world.add_device("d0")
    await world.store.create(fleet("cams", await release(world.store, "1")))
    first = await world.until(
        Device, "d0", lambda d: d.status.updated.status is UpdatedStatus.UP_TO_DATE
    )
    await world.resync()
    world.clock.advance(ORDER_LIFE - RENEW_BEFORE + SECOND)
    renewed = await ordered(world, "d0", generation=2)
    before, after = first.status.order, renewed.status.order
    assert before.expires is not None
    assert after.expires is not None
    assert after.expires > before.expires
    assert after.template_generation == before.template_generation == 1
    assert after.since == before.since
    await world.until(Device, "d0", lambda d: d.status.running.generation == 2)
    assert len(device.orders) == 2


async def test_order_of_an_absent_device_is_renewed_when_it_is_back(
    world: World,
) -> None:
    device = await world.add_device("d0")
    await world.store.create(fleet("cams", await release(world.store, "1")))
    await world.until(
        Device, "d0", lambda d: d.status.updated.status is UpdatedStatus.UP_TO_DATE
    )
    world.hub.close(device)
    world.clock.advance(timedelta(days=30))
    await world.resync()
    assert (await world.get(Device, "d0")).status.order.generation == 1
    world.connect(device)
    await ordered(world, "d0", generation=2)


async def test_silent_device_is_offline_and_online_again(world: World) -> None:
    device = await world.add_device("d0")

    def is_(status: SummaryStatus) -> Callable[[Device], bool]:
        return lambda found: found.status.summary.status is status

    await world.until(Device, "d0", is_(SummaryStatus.ONLINE))
    seen = world.clock.now()
    world.hub.close(device)
    await advance_until(world, is_(SummaryStatus.OFFLINE))
    offline = await world.get(Device, "d0")
    assert offline.status.last_seen == seen
    world.connect(device)
    await world.until(Device, "d0", is_(SummaryStatus.ONLINE))


async def test_beats_write_no_object(world: World) -> None:
    device = await world.add_device("d0")
    await world.until(
        Device, "d0", lambda d: d.status.summary.status is SummaryStatus.ONLINE
    )
    await world.resync()
    before = await world.store.revision()
    for _ in range(20):
        world.leases.renew(device.device)
        world.clock.advance(5 * SECOND)
        await world.resync()
    assert await world.store.revision() == before


async def test_order_is_above_what_the_device_and_the_orders_row_know(
    world: World,
) -> None:
    device = await world.add_device("d0")
    await world.store.create(fleet("cams", await release(world.store, "1")))
    await ordered(world, "d0")
    await world.resync()
    world.hub.close(device)
    forged = await world.get(Device, "d0")
    forged.status.order = OrderStatus()
    forged.metadata.resource_version = None
    await world.store.update_status(forged)
    again = await ordered(world, "d0", generation=2)
    assert again.status.order.template_generation == 2
    device.generation = 9
    world.connect(device)
    await ordered(world, "d0", generation=10)
    await world.until(
        Device, "d0", lambda d: d.status.updated.status is UpdatedStatus.UP_TO_DATE
    )
    assert device.orders[-1].generation == 10


async def test_device_ahead_of_a_restored_database_gets_a_new_order(
    world: World,
) -> None:
    device = await world.add_device("d0")
    await world.store.create(fleet("cams", await release(world.store, "1")))
    await ordered(world, "d0")
    await world.resync()
    world.hub.close(device)
    device.generation = 7
    world.connect(device)
    renewed = await ordered(world, "d0", generation=8)
    assert renewed.status.order.template_generation == 8
    await world.until(Device, "d0", lambda d: d.status.running.generation == 8)


async def test_device_ahead_that_nobody_ordered_anything_keeps_what_it_runs(
    world: World,
) -> None:
    device = await world.add_device("d0", connected=False)
    device.generation = 7
    world.connect(device)
    await world.resync()
    assert not device.orders
    assert (await world.get(Device, "d0")).status.order.generation == 0


async def test_generation_that_nobody_can_exceed_is_recorded(world: World) -> None:
    device = await world.add_device("d0", connected=False)
    device.generation = 2**64 - 1
    world.connect(device)
    await world.store.create(fleet("cams", await release(world.store, "1")))
    await world.until(
        Device,
        "d0",
        lambda d: any(
            "below" in condition.message for condition in d.status.conditions
        ),
    )
    assert await orders.find(world.store, NAMESPACE, "d0") is None


async def test_device_deleted_while_nobody_watched_is_forgotten(world: World) -> None:
    device = await world.add_device("d0", answer=silent)
    await world.store.create(fleet("cams", await release(world.store, "1")))
    await ordered(world, "d0")
    await world.resync()
    await world.stop()
    await world.leases.flush()
    certificate = certificates.Certificate(
        serial="ab",
        namespace=NAMESPACE,
        device="d0",
        not_after=world.clock.now(),
        public_key_sha256="cd",
    )
    await world.store.write(lambda tx: certificates.add(tx, certificate))
    await world.store.delete(Device, NAMESPACE, "d0")
    world.start()
    await world.resync()
    assert "deleted" in device.ended
    assert await orders.find(world.store, NAMESPACE, "d0") is None
    assert await leases.all_seen(world.store) == {}
    revoked = await certificates.find(world.store, "ab")
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert not list(await world.controllers["devices"].all_keys())


async def test_restart_makes_no_device_online_that_was_not_heard_of(
    world: World,
) -> None:
    device = await world.add_device("d0")

    def is_(status: SummaryStatus) -> Callable[[Device], bool]:
        return lambda found: found.status.summary.status is status

    await world.until(Device, "d0", is_(SummaryStatus.ONLINE))
    world.hub.close(device)
    await advance_until(world, is_(SummaryStatus.OFFLINE))
    await world.leases.flush()
    await world.stop()
    await world.leases.load()
    before = await world.store.revision()
    world.start()
    await world.resync()
    assert await world.store.revision() == before
    world.connect(device)
    await world.until(Device, "d0", is_(SummaryStatus.ONLINE))


async def test_restart_makes_no_device_offline_before_its_time(world: World) -> None:
    device = await world.add_device("d0")

    def is_(status: SummaryStatus) -> Callable[[Device], bool]:
        return lambda found: found.status.summary.status is status

    await world.until(Device, "d0", is_(SummaryStatus.ONLINE))
    await world.leases.flush()
    await world.stop()
    world.hub.close(device)
    world.clock.advance(timedelta(days=1))
    await world.leases.load()
    world.start()
    await world.resync()
    assert is_(SummaryStatus.ONLINE)(await world.get(Device, "d0"))
    await advance_until(world, is_(SummaryStatus.OFFLINE))


async def test_deleted_device_loses_session_order_and_certificate(
    world: World,
) -> None:
    device = await world.add_device("d0", answer=silent)
    await world.store.create(fleet("cams", await release(world.store, "1")))
    await ordered(world, "d0")
    await world.store.delete(Device, NAMESPACE, "d0")
    async with world_timeout():
        while await orders.find(world.store, NAMESPACE, "d0") is not None:
            await world.resync()
    assert "deleted" in device.ended


async def test_device_that_ended_its_session_is_offline_soon_and_online_at_once(
    world: World,
) -> None:
    device = await world.add_device("d0")

    def is_(status: SummaryStatus) -> Callable[[Device], bool]:
        return lambda found: found.status.summary.status is status

    await world.until(Device, "d0", is_(SummaryStatus.ONLINE))
    world.hub.close(device)
    world.leases.leave(device.device)
    world.clock.advance(RECONNECT_WITHIN - SECOND)
    await world.resync()
    assert is_(SummaryStatus.ONLINE)(await world.get(Device, "d0"))
    world.clock.advance(SECOND)
    await world.resync()
    away = await world.get(Device, "d0")
    assert is_(SummaryStatus.OFFLINE)(away)
    assert away.status.summary.info == "session closed"
    world.connect(device)
    await world.until(Device, "d0", is_(SummaryStatus.ONLINE))
