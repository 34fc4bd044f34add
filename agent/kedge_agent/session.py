# SPDX-License-Identifier: Apache-2.0
"""Keeping in touch with the control plane, through whichever transport.

    waiting (full jitter) -> connecting -> Hello -> in session -> over -> waiting

In session, three tasks share one stream: one receives, one reports, one beats. Whatever
ends one of them ends the session. Nothing on the device waits for a session: it serves,
updates and heals without one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from kedge_agent.backoff import Backoff
from kedge_agent.errors import NetworkError
from kedge_agent.reports import Outbox
from kedge_agent.settings import Timing
from kedge_agent.transport.base import Session, Transport
from kedge_wire.v1.order_pb2 import Envelope
from kedge_wire.v1.session_pb2 import Beat, DeviceMessage, Hello, ServerMessage

logger = logging.getLogger(__name__)

STABLE_SECONDS: Final = 30.0
"""A session that lasted this long was fine; the next connect comes soon."""


class Device(Protocol):
    """Whom the session speaks for."""

    @property
    def held_generation(self) -> int: ...

    async def offer(self, envelope: Envelope) -> None: ...


class ControlSession:
    """One device's conversation with its control plane."""

    def __init__(
        self,
        transport: Transport,
        device: Device,
        *,
        outbox: Outbox,
        hello: Callable[[], Hello],
        timing: Timing,
    ) -> None:
        self._transport, self._device = transport, device
        self._outbox, self._hello, self._timing = outbox, hello, timing

    async def run(self) -> None:
        """Hold a session, again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(
            first_s=self._timing.reconnect_min, longest_s=self._timing.reconnect_max
        )
        while True:
            started = loop.time()
            try:
                await self._once()
            except* NetworkError as group:
                logger.warning("session.over: %s", group.exceptions[0])
            if loop.time() - started >= STABLE_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _once(self) -> None:
        async with self._transport.connect() as session:
            await session.send(DeviceMessage(hello=self._hello()))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(session), name="session-receive")
                tasks.create_task(self._report(session), name="session-report")
                tasks.create_task(self._beat(session), name="session-beat")

    async def _receive(self, session: Session) -> None:
        handlers: dict[str, Callable[[ServerMessage], Awaitable[None]]] = {
            "order": self._on_order,
            "ack": self._on_ack,
        }
        while True:
            message = await session.receive()
            kind = message.WhichOneof("body")
            # A body that we do not know comes from a newer control plane.
            if kind in handlers:
                await handlers[kind](message)

    async def _on_order(self, message: ServerMessage) -> None:
        await self._device.offer(message.order)

    async def _on_ack(self, message: ServerMessage) -> None:
        self._outbox.acknowledge(message.ack.sequence)

    async def _report(self, session: Session) -> None:
        """Send what is new at once, and again what was not acknowledged for a beat."""
        report = self._outbox.pending
        while True:
            if report is not None:
                await session.send(DeviceMessage(report=report))
            report = await self._outbox.wait(timeout_s=self._timing.beat)

    async def _beat(self, session: Session) -> None:
        while True:
            await asyncio.sleep(self._timing.beat)
            beat = Beat(generation=self._device.held_generation)
            await session.send(DeviceMessage(beat=beat))
