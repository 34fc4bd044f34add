# SPDX-License-Identifier: Apache-2.0
"""Events after COMMIT, in order, to whoever watches.

The log keeps the newest events so that a watch may begin a little in the past: list,
then watch from the list's resourceVersion. It starts empty with the process; older
watches are Gone and list again. A watch that does not keep up is closed and Gone, too:
nobody waits for a slow consumer and nothing grows without bound. Everything here runs
on one event loop.
"""

import asyncio
import builtins
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, Self, TypeVar

import orjson

from kedge_controlplane.errors import GoneError
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.store.record import Record, to_document, to_object

T = TypeVar("T", bound=Resource)

LOG_LIMIT: Final = 8_192  # events
BACKLOG_LIMIT: Final = 8_192  # events that one watch may be behind; they are shared
BYTES_LIMIT: Final = 32 * 1024**2
"""Of events as JSON, in the log and in each backlog; as objects they take some times
that. A device is a few kB, the rollout of a large fleet many hundred."""


class EventType(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Generic[T]):
    """One committed change; of a deletion, the object as it was last."""

    type: EventType
    cls: builtins.type[T]
    record: Record
    previous_labels: (
        Mapping[str, str] | None
    )  # before the change; None: it was not there

    @property
    def resource_version(self) -> int:
        return self.record.resource_version

    def measure(self) -> int:
        """Bytes of it as JSON, metadata apart."""
        return sum(
            len(orjson.dumps(part))
            for part in (self.record.metadata, self.record.spec, self.record.status)
        )

    @property
    def object(self) -> T:
        """A fresh instance each time."""
        return to_object(self.cls, self.record)

    @property
    def document(self) -> dict[str, Any]:
        """The wire form; what it holds is shared, so do not change it."""
        return to_document(self.cls.__name__, self.record)


class Watch(Generic[T]):
    """An iterator over events. Closed by its owner, by the store or for being slow."""

    def __init__(self, log: "EventLog", *, cls: type[T] | None, since: int) -> None:
        self._log = log
        self._cls = cls
        self._since = since
        self._backlog: deque[tuple[Event[T], int]] = deque()  # and its bytes
        self._bytes = 0
        self._wakeup = asyncio.Event()
        self._closed = False
        self._overrun = False

    @property
    def resource_version(self) -> int:
        """Every event up to here has been returned, if the backlog is empty."""
        if self._backlog:
            return self._backlog[0][0].resource_version - 1
        return max(self._since, self._log.newest)

    @property
    def closed(self) -> bool:
        return self._closed

    async def next(self, timeout_s: float) -> Event[T] | None:
        """Return the next event; None after `timeout_s`, or at once when closed.

        Raises GoneError where events were lost: list again.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await anext(self, None)
        except TimeoutError:
            return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event[T]:
        while not self._backlog:
            if self._overrun:
                raise GoneError("the watch fell too many events behind: list again")
            if self._closed:
                raise StopAsyncIteration
            self._wakeup.clear()
            await self._wakeup.wait()
        event, size = self._backlog.popleft()
        self._bytes -= size
        return event

    def close(self) -> None:
        """Take no more events; what is in the backlog may still be read."""
        self._closed = True
        self._log.forget(self)
        self._wakeup.set()

    def offer(self, event: Event[Any], size: int) -> None:
        """Take an event of the log, and its bytes; never waits."""
        if event.resource_version <= self._since:
            return
        if self._cls is not None and event.cls is not self._cls:
            return
        full = len(self._backlog) >= BACKLOG_LIMIT or self._bytes >= BYTES_LIMIT
        if full:
            self._overrun = True
            self._backlog.clear()
            self.close()
            return
        self._backlog.append((event, size))
        self._bytes += size
        self._wakeup.set()


class EventLog:
    """The newest events and everyone who watches."""

    def __init__(
        self, *, newest: int, limit: int = LOG_LIMIT, limit_bytes: int = BYTES_LIMIT
    ) -> None:
        self.newest = newest
        self._oldest = newest  # watches may begin here or later
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._events: deque[tuple[Event[Any], int]] = deque()  # and its bytes
        self._bytes = 0
        self._watches: set[Watch[Any]] = set()
        self._closed = False

    def publish(self, events: Sequence[Event[Any]]) -> None:
        """Append committed events in their order."""
        for event in events:
            self.newest = event.resource_version
            size = event.measure()
            self._events.append((event, size))
            self._bytes += size
            while len(self._events) > self._limit or self._bytes > self._limit_bytes:
                forgotten, freed = self._events.popleft()
                self._oldest, self._bytes = (
                    forgotten.resource_version,
                    self._bytes - freed,
                )
            for watch in tuple(self._watches):
                watch.offer(event, size)

    def watch(self, cls: type[T] | None, *, since: int | None) -> Watch[T]:
        """Begin a watch after revision `since`, or now; raises GoneError."""
        start = self.newest if since is None else since
        if start < self._oldest:
            raise GoneError(
                f"too old resource version: {start} ({self._oldest}): list again"
            )
        watch = Watch(self, cls=cls, since=start)
        for event, size in self._events:
            watch.offer(event, size)
        if self._closed:
            watch.close()
        if not watch.closed:  # it may have overrun already
            self._watches.add(watch)
        return watch

    def forget(self, watch: Watch[Any]) -> None:
        self._watches.discard(watch)

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for watch in tuple(self._watches):
            watch.close()
