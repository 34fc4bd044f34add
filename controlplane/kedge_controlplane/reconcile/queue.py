# SPDX-License-Identifier: Apache-2.0
"""A queue of keys: no key is handled twice at once, different keys run side by side.

A key waits at most once however often it is added, so the queue is bounded by the
number of objects. Added while it is being handled, it is handled once more afterwards.
Nothing is stored: after a restart whoever owns the queue adds every key again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from kedge_controlplane.reconcile.clock import Clock, Timer

K = TypeVar("K", bound=Hashable)


class KeyQueue(Generic[K]):
    """Used from one event loop."""

    def __init__(
        self,
        *,
        name: str,
        handle: Callable[[K], Awaitable[None]],
        clock: Clock,
        parallel: int,
    ) -> None:
        self._name = name
        self._handle = handle
        self._clock = clock
        self._parallel = parallel
        self._waiting: asyncio.Queue[K] = asyncio.Queue()
        self._queued: set[K] = set()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, Timer] = {}

    def add(self, key: K) -> None:
        """Have `key` handled soon."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._waiting.put_nowait(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Have `key` handled in `delay_s`, unless something handles it before.

        It replaces an earlier wish for the same key.
        """
        self._forget_timer(key)

        def due() -> None:
            self._timers.pop(key, None)
            self.add(key)

        self._timers[key] = self._clock.call_later(delay_s, due)

    async def run(self) -> None:
        """Handle keys until cancelled. `handle` must not raise."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(self._parallel):
                    tasks.create_task(self._work(), name=f"{self._name}-{number}")
        finally:
            for key in list(self._timers):
                self._forget_timer(key)

    async def settled(self) -> None:
        """Wait until nothing is queued or being handled; timers do not count."""
        await self._waiting.join()

    async def _work(self) -> None:
        while True:
            key = await self._waiting.get()
            self._queued.discard(key)
            self._busy.add(key)
            self._forget_timer(key)
            try:
                await self._handle(key)
            finally:
                self._busy.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)
                self._waiting.task_done()

    def _forget_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
