# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from kedge_controlplane.errors import (
    ConflictError,
    PermanentError,
    TransientError,
    UnavailableError,
)
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.model_version import Model
from kedge_controlplane.reconcile.clock import ManualClock
from kedge_controlplane.reconcile.loop import (
    FREE_CONFLICTS,
    THROTTLE_S,
    Controller,
    Key,
    Loop,
)
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.watch import Event
from tests.simulators.controlplane import NAMESPACE, START, migrated_store, named

KEY = Key(NAMESPACE, "a")


class Scripted(Controller):
    """Answers each reconcile with the next of its script, then with None."""

    name = "scripted"

    def __init__(self, store: Store, *script: Exception | timedelta) -> None:
        self._store = store
        self.script = list(script)
        self.handled: asyncio.Queue[Key] = asyncio.Queue()
        self.recorded: list[tuple[Key, PermanentError]] = []

    def keys_of(self, event: Event[Resource]) -> Iterable[Key]:
        yield Key(event.record.namespace, event.record.name)

    async def all_keys(self) -> Iterable[Key]:
        page = await self._store.list(Model)
        return [Key(model.namespace, model.name) for model in page.items]

    async def reconcile(self, key: Key) -> timedelta | None:
        self.handled.put_nowait(key)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        return step

    async def record(self, key: Key, error: PermanentError) -> None:
        self.recorded.append((key, error))

    async def next_handled(self) -> Key:
        async with asyncio.timeout(10):
            return await self.handled.get()


class Away(Scripted):
    """Its database does not answer the first time."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked = asyncio.Event()

    async def all_keys(self) -> Iterable[Key]:
        if not self.asked.is_set():
            asyncio.get_running_loop().call_soon(self.asked.set)
            raise UnavailableError("no database")
        return await super().all_keys()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with migrated_store(tmp_path) as store:
        yield store


@asynccontextmanager
async def running(
    controller: Scripted, store: Store, clock: ManualClock
) -> AsyncIterator[Loop]:
    loop = Loop(controller, store=store, clock=clock, resync=timedelta(hours=1))
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_objects_that_exist_and_changes_are_reconciled(store: Store) -> None:
    await store.create(Model(metadata=named("a")))
    controller = Scripted(store)
    async with running(controller, store, ManualClock(START)):
        assert await controller.next_handled() == KEY
        await store.create(Model(metadata=named("b")))
        assert await controller.next_handled() == Key(NAMESPACE, "b")


async def test_everything_is_reconciled_again_with_the_resync(store: Store) -> None:
    await store.create(Model(metadata=named("a")))
    clock = ManualClock(START)
    controller = Scripted(store)
    async with running(controller, store, clock):
        await controller.next_handled()
        clock.advance(timedelta(hours=1))
        assert await controller.next_handled() == KEY


async def test_missed_changes_are_made_good_by_reading_all(store: Store) -> None:
    controller = Scripted(store)
    async with running(controller, store, ManualClock(START)):
        await store.create(Model(metadata=named("a")))
        await controller.next_handled()
        for watch in tuple(store._log._watches):
            watch._overrun = True
            watch.close()
        await store.create(Model(metadata=named("b")))
        async with asyncio.timeout(10):
            while await controller.next_handled() != Key(NAMESPACE, "b"):
                pass
        await store.create(Model(metadata=named("c")))
        async with asyncio.timeout(10):
            while await controller.next_handled() != Key(NAMESPACE, "c"):
                pass


@pytest.mark.parametrize(
    ("failure", "delay_s"),
    [
        (TransientError("busy", delay_s=10), 12),
        (RuntimeError("a bug"), THROTTLE_S[0] * 1.2),
        (UnavailableError("no database"), THROTTLE_S[0] * 1.2),
        (timedelta(seconds=10), 10),
    ],
    ids=["transient", "bug", "unavailable", "asked for"],
)
async def test_key_comes_back_after_its_delay(
    store: Store, failure: Exception | timedelta, delay_s: float
) -> None:
    clock = ManualClock(START)
    controller = Scripted(store, failure)
    async with running(controller, store, clock) as loop:
        loop.add(KEY)
        await controller.next_handled()
        await loop.settled()
        assert controller.handled.empty()
        clock.advance(timedelta(seconds=delay_s))
        assert await controller.next_handled() == KEY


async def test_key_that_fails_on_is_tried_ever_more_rarely(store: Store) -> None:
    clock = ManualClock(START)
    controller = Scripted(store, *[RuntimeError("a bug")] * (len(THROTTLE_S) + 2))
    async with running(controller, store, clock) as loop:
        loop.add(KEY)
        for delay_s in (*THROTTLE_S, THROTTLE_S[-1], THROTTLE_S[-1]):
            await controller.next_handled()
            await loop.settled()
            clock.advance(timedelta(seconds=delay_s * 0.79))
            await loop.settled()
            assert controller.handled.empty()
            clock.advance(timedelta(seconds=delay_s * 0.42))
        await controller.next_handled()


async def test_conflict_reads_again_at_once_but_not_for_ever(store: Store) -> None:
    clock = ManualClock(START)
    controller = Scripted(store, *[ConflictError("changed")] * (FREE_CONFLICTS + 1))
    async with running(controller, store, clock) as loop:
        loop.add(KEY)
        for _ in range(FREE_CONFLICTS + 1):
            await controller.next_handled()
        await loop.settled()
        assert controller.handled.empty()
        clock.advance(timedelta(minutes=3))
        await controller.next_handled()


async def test_permanent_error_is_recorded_and_waits_for_a_change(
    store: Store,
) -> None:
    clock = ManualClock(START)
    error = PermanentError("no such release")
    controller = Scripted(store, error)
    async with running(controller, store, clock) as loop:
        loop.add(KEY)
        await controller.next_handled()
        await loop.settled()
        clock.advance(timedelta(minutes=30))
        await loop.settled()
        assert controller.handled.empty()
        assert controller.recorded == [(KEY, error)]


async def test_loop_waits_for_a_database_that_is_away(store: Store) -> None:
    await store.create(Model(metadata=named("a")))
    clock = ManualClock(START)
    controller = Away(store)
    async with running(controller, store, clock):
        async with asyncio.timeout(10):
            await controller.asked.wait()
        clock.advance(timedelta(seconds=3))
        assert await controller.next_handled() == KEY


async def test_one_failing_key_does_not_stop_the_others(store: Store) -> None:
    controller = Scripted(store, RuntimeError("a bug"))
    async with running(controller, store, ManualClock(START)) as loop:
        loop.add(KEY)
        loop.add(Key(NAMESPACE, "b"))
        assert await controller.next_handled() == KEY
        assert await controller.next_handled() == Key(NAMESPACE, "b")
