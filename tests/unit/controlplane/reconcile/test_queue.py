# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from kedge_controlplane.reconcile.clock import ManualClock
from kedge_controlplane.reconcile.queue import KeyQueue

START = datetime(2030, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def running(
    handle: Callable[[str], Awaitable[None]], clock: ManualClock, parallel: int = 2
) -> AsyncIterator[KeyQueue[str]]:
    queue = KeyQueue(name="test", handle=handle, clock=clock, parallel=parallel)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_key_added_twice_is_handled_once() -> None:
    handled: list[str] = []

    async def handle(key: str) -> None:
        handled.append(key)

    async with running(handle, ManualClock(START)) as queue:
        queue.add("a")
        queue.add("a")
        queue.add("b")
        await queue.settled()
    assert sorted(handled) == ["a", "b"]


async def test_key_added_while_it_is_handled_is_handled_again_afterwards() -> None:
    at_once = 0
    handled = 0
    gate = asyncio.Event()
    began = asyncio.Event()

    async def handle(key: str) -> None:
        nonlocal at_once, handled
        at_once += 1
        assert at_once == 1
        began.set()
        await gate.wait()
        at_once -= 1
        handled += 1

    async with running(handle, ManualClock(START)) as queue:
        queue.add("a")
        await began.wait()
        queue.add("a")
        queue.add("a")
        gate.set()
        await queue.settled()
    assert handled == 2


async def test_keys_run_side_by_side_under_the_limit() -> None:
    now = most = 0
    both = asyncio.Barrier(2)

    async def handle(key: str) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await both.wait()
        now -= 1

    async with running(handle, ManualClock(START), parallel=2) as queue:
        for key in "abcd":
            queue.add(key)
        await queue.settled()
    assert most == 2


async def test_delayed_key_is_handled_when_its_time_has_come() -> None:
    clock = ManualClock(START)
    handled: list[str] = []

    async def handle(key: str) -> None:
        handled.append(key)

    async with running(handle, clock) as queue:
        queue.add_after("a", 10)
        clock.advance(timedelta(seconds=9))
        await queue.settled()
        assert handled == []
        clock.advance(timedelta(seconds=1))
        await queue.settled()
    assert handled == ["a"]


async def test_handling_a_key_drops_its_timer() -> None:
    clock = ManualClock(START)
    handled: list[str] = []

    async def handle(key: str) -> None:
        handled.append(key)

    async with running(handle, clock) as queue:
        queue.add_after("a", 10)
        queue.add("a")
        await queue.settled()
        clock.advance(timedelta(minutes=1))
        await queue.settled()
    assert handled == ["a"]


async def test_manual_clock_calls_in_order_of_time() -> None:
    clock = ManualClock(START)
    seen: list[tuple[str, datetime]] = []
    clock.call_later(2, lambda: seen.append(("late", clock.now())))
    clock.call_later(1, lambda: seen.append(("early", clock.now())))
    clock.call_later(1, lambda: seen.append(("never", clock.now()))).cancel()
    clock.advance(timedelta(seconds=5))
    assert [name for name, _ in seen] == ["early", "late"]
    assert seen[0][1] == START + timedelta(seconds=1)
    assert clock.now() == START + timedelta(seconds=5)
