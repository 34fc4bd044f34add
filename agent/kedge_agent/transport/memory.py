# SPDX-License-Identifier: Apache-2.0
"""A transport inside one process: for simulations, and for tests of what uses one."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from kedge_agent.errors import NetworkError
from kedge_agent.transport.base import Session, Transport
from kedge_wire.v1.session_pb2 import DeviceMessage, ServerMessage

T = TypeVar("T")

QUEUE_LENGTH: Final = 64
"""Messages on their way in each direction; a sender waits when it is full."""


class MemoryLink:
    """One session as both ends see it."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[DeviceMessage] = asyncio.Queue(QUEUE_LENGTH)
        self.down: asyncio.Queue[ServerMessage] = asyncio.Queue(QUEUE_LENGTH)
        self.closed = asyncio.Event()


class MemoryTransport(Transport):
    """Sessions appear in `links`, where the other end takes them up."""

    def __init__(self) -> None:
        self.links: asyncio.Queue[MemoryLink] = asyncio.Queue(QUEUE_LENGTH)
        self.reachable = True

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Session]:
        if not self.reachable or self.links.full():
            raise NetworkError("memory: expected a listener, found none")
        link = MemoryLink()
        self.links.put_nowait(link)
        try:
            yield _MemorySession(link)
        finally:
            link.closed.set()


class _MemorySession(Session):
    def __init__(self, link: MemoryLink) -> None:
        self._link = link

    async def send(self, message: DeviceMessage) -> None:
        await _unless_closed(self._link, self._link.up.put(message))

    async def receive(self) -> ServerMessage:
        return await _unless_closed(self._link, self._link.down.get())


async def _unless_closed(link: MemoryLink, work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.create_task(work, name="memory-transfer")
    closed = asyncio.create_task(link.closed.wait(), name="memory-closed")
    try:
        if not link.closed.is_set():
            await asyncio.wait({task, closed}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise NetworkError("memory: expected an open session, found it closed")
        return task.result()
    finally:
        task.cancel()
        closed.cancel()
        await asyncio.gather(task, closed, return_exceptions=True)
