# SPDX-License-Identifier: Apache-2.0
"""Events: what they say, where a watch may begin and how it ends."""

import asyncio
from datetime import UTC, datetime

import pytest

from kedge_controlplane.errors import GoneError
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.store import watch as watch_module
from kedge_controlplane.store.record import Record
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.watch import Event, EventLog, EventType
from tests.unit.controlplane.store.objects import device, fleet


def added(version: int) -> Event[Device]:
    record = Record(
        uid=str(version),
        namespace="default",
        name=f"d-{version}",
        generation=1,
        resource_version=version,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        deletion_timestamp=None,
        metadata={},
        spec={},
        status={},
    )
    return Event(type=EventType.ADDED, cls=Device, record=record, previous_labels=None)


async def test_events_tell_what_happened_and_what_was_before(store: Store) -> None:
    watch = store.watch(Device)
    made = await store.create(device("d-1", site="berlin"))
    made.metadata.labels = {"site": "paris"}
    await store.update(made)
    await store.delete(Device, "default", "d-1")
    seen = [await watch.next(5) for _ in range(3)]
    assert [event and event.type for event in seen] == ["ADDED", "MODIFIED", "DELETED"]
    assert [event and event.previous_labels for event in seen] == [
        None,
        {"site": "berlin"},
        {"site": "paris"},
    ]
    assert [event and event.resource_version for event in seen] == [1, 2, 3]
    last = seen[2]
    assert last is not None
    assert last.object.metadata.resource_version == "3"
    assert last.object is not last.object


async def test_a_watch_sees_its_kind_or_all(store: Store) -> None:
    devices, everything = store.watch(Device), store.watch()
    await store.create(fleet("f"))
    await store.create(device("d-1"))
    first = await devices.next(5)
    assert first is not None
    assert first.object.name == "d-1"
    names = [event.object.name for _ in range(2) if (event := await everything.next(5))]
    assert names == ["f", "d-1"]


async def test_list_then_watch_misses_nothing_and_repeats_nothing(
    store: Store,
) -> None:
    await store.create(device("d-1"))
    page = await store.list(Device)
    await store.create(device("d-2"))
    watch = store.watch(Device, since=page.resource_version)
    await store.create(device("d-3"))
    names = [event.object.name for _ in range(2) if (event := await watch.next(5))]
    assert names == ["d-2", "d-3"]
    assert await watch.next(0) is None


async def test_a_watch_from_before_the_log_is_gone() -> None:
    log = EventLog(newest=10, limit=3)
    log.publish([added(version) for version in range(11, 16)])
    with pytest.raises(GoneError, match="too old resource version: 11"):
        log.watch(Device, since=11)
    watch = log.watch(Device, since=12)
    versions = [
        event.resource_version for _ in range(3) if (event := await watch.next(1))
    ]
    assert versions == [13, 14, 15]


async def test_the_log_is_bounded_by_bytes_too() -> None:
    heavy = [added(version) for version in range(1, 5)]
    for event in heavy:
        event.record.metadata["annotations"] = {"a": "x" * 1000}  # type: ignore[index]  # made above, not shared
    log = EventLog(newest=0, limit_bytes=2_500)
    log.publish(heavy)
    with pytest.raises(GoneError, match="too old"):
        log.watch(Device, since=1)
    assert (await log.watch(Device, since=2).next(1)) is heavy[2]


async def test_a_watch_that_is_many_bytes_behind_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "BYTES_LIMIT", 10)
    log = EventLog(newest=0)
    slow, quick = log.watch(Device, since=None), log.watch(Device, since=None)
    for version in range(1, 5):
        log.publish([added(version)])
        assert await quick.next(1) is not None
    with pytest.raises(GoneError, match="list again"):
        await slow.next(1)


async def test_a_restarted_store_has_no_older_events(store: Store) -> None:
    await store.create(device("d-1"))
    with pytest.raises(GoneError):
        EventLog(newest=await store.revision()).watch(Device, since=0)


async def test_a_slow_watch_is_gone_and_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "BACKLOG_LIMIT", 3)
    log = EventLog(newest=0)
    slow, quick = log.watch(Device, since=None), log.watch(Device, since=None)
    for version in range(1, 6):
        log.publish([added(version)])
        event = await quick.next(1)
        assert event is not None
        assert event.resource_version == version
    with pytest.raises(GoneError, match="list again"):
        await slow.next(1)
    assert slow.closed
    assert not quick.closed


async def test_the_position_is_what_was_really_returned() -> None:
    log = EventLog(newest=5)
    watch = log.watch(Fleet, since=None)
    assert watch.resource_version == 5
    log.publish([added(6)])
    assert watch.resource_version == 6  # of another kind: nothing to return
    devices = log.watch(Device, since=5)
    assert devices.resource_version == 5
    await devices.next(1)
    assert devices.resource_version == 6


async def test_closing_wakes_who_waits() -> None:
    log = EventLog(newest=0)
    watch = log.watch(Device, since=None)
    waiting = asyncio.ensure_future(watch.next(60))
    await asyncio.sleep(0)
    log.close()
    assert await waiting is None
    assert watch.closed
    assert log.watch(Device, since=None).closed
