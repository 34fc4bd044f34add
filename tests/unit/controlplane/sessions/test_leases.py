# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from kedge_controlplane.reconcile.clock import ManualClock
from kedge_controlplane.reconcile.loop import Key
from kedge_controlplane.sessions.leases import LeaseBook
from kedge_controlplane.store import leases
from kedge_controlplane.store.store import Store
from tests.simulators.controlplane import START, migrated_store

DEVICE = Key("default", "d-1")
SECOND = timedelta(seconds=1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with migrated_store(tmp_path) as store:
        yield store


def book(store: Store, clock: ManualClock) -> LeaseBook:
    return LeaseBook(
        store=store, clock=clock, offline_after=45 * SECOND, every=5 * SECOND
    )


@asynccontextmanager
async def running(
    target: LeaseBook,
) -> AsyncIterator[asyncio.Queue[Key]]:
    changed: asyncio.Queue[Key] = asyncio.Queue()
    task = asyncio.create_task(target.run(changed.put_nowait))
    try:
        yield changed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_device_is_fresh_for_a_while_after_it_was_heard_of(store: Store) -> None:
    clock = ManualClock(START)
    target = book(store, clock)
    assert not target.fresh(DEVICE)
    target.renew(DEVICE)
    clock.advance(44 * SECOND)
    assert target.fresh(DEVICE)
    clock.advance(SECOND)
    assert not target.fresh(DEVICE)
    assert target.last_seen(DEVICE) == START


async def test_leases_survive_a_restart(store: Store) -> None:
    clock = ManualClock(START)
    first = book(store, clock)
    first.renew(DEVICE)
    await first.flush()
    second = book(store, clock)
    await second.load()
    assert second.last_seen(DEVICE) == START


async def test_time_that_the_server_was_away_says_nothing_about_devices(
    store: Store,
) -> None:
    clock = ManualClock(START)
    first = book(store, clock)
    first.renew(DEVICE)
    await first.flush()
    clock.advance(timedelta(days=1))
    second = book(store, clock)
    await second.load()
    assert second.fresh(DEVICE) is None
    clock.advance(45 * SECOND)
    assert second.fresh(DEVICE) is False
    second.renew(DEVICE)
    assert second.fresh(DEVICE) is True


async def test_change_of_freshness_is_told_once(store: Store) -> None:
    clock = ManualClock(START)
    target = book(store, clock)
    target.renew(DEVICE)
    async with running(target) as changed, asyncio.timeout(10):
        told: list[Key] = []
        while len(told) < 2:  # came, then went
            await asyncio.sleep(0)  # lets the book's task take its turn
            clock.advance(5 * SECOND)
            while not changed.empty():
                told.append(changed.get_nowait())
        assert told == [DEVICE, DEVICE]
        assert not target.fresh(DEVICE)


async def test_forgotten_device_leaves_nothing(store: Store) -> None:
    target = book(store, ManualClock(START))
    target.renew(DEVICE)
    target.forget(DEVICE)
    await target.flush()
    assert target.last_seen(DEVICE) is None
    assert await leases.all_seen(store) == {}


async def test_flush_that_fails_is_made_good_later(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with migrated_store(tmp_path) as store:
        target = book(store, clock)
    target.renew(DEVICE)
    await target.flush()  # the store is closed
    async with migrated_store(tmp_path) as store:
        again = book(store, clock)
        again._unsaved = target._unsaved
        await again.flush()
        assert await leases.all_seen(store) == {("default", "d-1"): START}


async def test_device_that_left_is_away_after_a_short_grace(store: Store) -> None:
    clock = ManualClock(START)
    target = book(store, clock)
    async with running(target) as changed:
        await asyncio.sleep(0)
        target.renew(DEVICE)
        clock.advance(5 * SECOND)
        assert await changed.get() == DEVICE
        target.leave(DEVICE)
        assert target.fresh(DEVICE)
        await asyncio.sleep(0)
        clock.advance(5 * SECOND)
        assert not target.fresh(DEVICE)
        assert target.closed(DEVICE)


async def test_device_that_came_back_never_left(store: Store) -> None:
    clock = ManualClock(START)
    target = book(store, clock)
    target.renew(DEVICE)
    target.leave(DEVICE)
    target.renew(DEVICE)
    clock.advance(6 * SECOND)
    assert target.fresh(DEVICE)
    assert not target.closed(DEVICE)


async def test_restart_forgets_who_left(store: Store) -> None:
    clock = ManualClock(START)
    first = book(store, clock)
    first.renew(DEVICE)
    first.leave(DEVICE)
    await first.flush()
    clock.advance(6 * SECOND)
    second = book(store, clock)
    await second.load()
    assert second.fresh(DEVICE) is None
