# SPDX-License-Identifier: Apache-2.0
"""The conversation with the control plane, over the memory transport."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kedge_agent.disk import DiskThread
from kedge_agent.journal import Journal
from kedge_agent.reports import Outbox
from kedge_agent.session import ControlSession
from kedge_agent.settings import Timing
from kedge_agent.transport.memory import MemoryLink, MemoryTransport
from kedge_wire.v1.order_pb2 import Envelope
from kedge_wire.v1.report_pb2 import Report
from kedge_wire.v1.session_pb2 import DeviceMessage, Hello, ReportAck, ServerMessage

TIMING = replace(Timing(), beat=0.05, reconnect_min=0.001, reconnect_max=0.002)


@dataclass
class Orders:
    """Takes every order."""

    held_generation: int = 7
    offered: asyncio.Queue[Envelope] = field(default_factory=asyncio.Queue)

    async def offer(self, envelope: Envelope) -> None:
        await self.offered.put(envelope)


@dataclass
class Conversation:
    transport: MemoryTransport
    outbox: Outbox
    orders: Orders

    async def link(self) -> MemoryLink:
        async with asyncio.timeout(10):
            return await self.transport.links.get()


@pytest.fixture
async def conversation(tmp_path: Path) -> AsyncIterator[Conversation]:
    disk = DiskThread()
    journal = Journal(tmp_path / "journal.db")
    outbox, orders, transport = Outbox(journal, disk), Orders(), MemoryTransport()
    session = ControlSession(
        transport,
        orders,
        outbox=outbox,
        hello=lambda: Hello(generation=orders.held_generation),
        timing=TIMING,
    )
    task = asyncio.create_task(session.run())
    yield Conversation(transport=transport, outbox=outbox, orders=orders)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    journal.close()
    disk.close()


async def next_of(link: MemoryLink, kind: str) -> DeviceMessage:
    async with asyncio.timeout(10):
        while True:
            message = await link.up.get()
            if message.WhichOneof("body") == kind:
                return message


async def test_the_device_introduces_itself_and_beats(
    conversation: Conversation,
) -> None:
    link = await conversation.link()
    assert (await link.up.get()).hello.generation == 7
    assert (await next_of(link, "beat")).beat.generation == 7


async def test_orders_reach_the_device(conversation: Conversation) -> None:
    link = await conversation.link()
    order = Envelope(payload=b"order")
    await link.down.put(ServerMessage())  # of a kind that a later protocol may add
    await link.down.put(ServerMessage(order=order))
    async with asyncio.timeout(10):
        assert await conversation.orders.offered.get() == order


async def test_a_report_is_repeated_until_it_is_acknowledged(
    conversation: Conversation,
) -> None:
    await conversation.outbox.put(Report(generation=1), now_s=1)
    link = await conversation.link()
    first = (await next_of(link, "report")).report
    assert (await next_of(link, "report")).report == first
    ack = ServerMessage(ack=ReportAck(sequence=first.sequence))
    await link.down.put(ack)
    while conversation.outbox.pending is not None:
        await next_of(link, "beat")


async def test_an_unacknowledged_report_survives_a_lost_session(
    conversation: Conversation,
) -> None:
    await conversation.outbox.put(Report(generation=1), now_s=1)
    link = await conversation.link()
    first = (await next_of(link, "report")).report
    link.closed.set()
    again = await conversation.link()
    assert (await next_of(again, "hello")).hello.generation == 7
    assert (await next_of(again, "report")).report == first


async def test_a_newer_report_takes_the_place_of_one_that_was_not_acknowledged(
    conversation: Conversation,
) -> None:
    outbox = conversation.outbox
    await outbox.put(Report(generation=1), now_s=1)
    first = outbox.pending
    await outbox.put(Report(generation=1), now_s=2)
    assert outbox.pending is first
    await outbox.put(Report(generation=2), now_s=3)
    assert first is not None
    assert outbox.pending is not None
    assert outbox.pending.sequence > first.sequence
    outbox.acknowledge(first.sequence)
    assert outbox.pending is not None


async def test_the_device_keeps_trying_while_nobody_is_there(
    conversation: Conversation,
) -> None:
    link = await conversation.link()
    conversation.transport.reachable = False
    link.closed.set()
    conversation.transport.reachable = True
    assert await conversation.link() is not link
