# SPDX-License-Identifier: Apache-2.0
"""Time, injected: the system's, or one that a test moves by hand."""

import asyncio
import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Forget it; nothing happens when it already ran."""


class Clock(ABC):
    """Wall time and timers. Promises no precision, and that time may jump."""

    @abstractmethod
    def now(self) -> datetime:
        """Return the time in UTC."""

    @abstractmethod
    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` from the event loop once `delay_s` have passed."""

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s`."""
        passed = asyncio.Event()
        timer = self.call_later(delay_s, passed.set)
        try:
            await passed.wait()
        finally:
            timer.cancel()


class SystemClock(Clock):
    def now(self) -> datetime:
        return datetime.now(UTC)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)


class ManualClock(Clock):
    """Stands still until `advance`; for simulations and tests."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._due: list[tuple[datetime, int, _ManualTimer]] = []
        self._made = 0

    def now(self) -> datetime:
        return self._now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = _ManualTimer(callback)
        self._made += 1
        when = self._now + timedelta(seconds=delay_s)
        heapq.heappush(self._due, (when, self._made, timer))
        return timer

    def advance(self, by: timedelta) -> None:
        """Move time and call what became due, in order."""
        end = self._now + by
        while self._due and self._due[0][0] <= end:
            self._now, _, timer = heapq.heappop(self._due)
            timer.fire()
        self._now = end


class _ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
