# SPDX-License-Identifier: Apache-2.0
"""One suite for every transport."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from kedge_agent.errors import NetworkError
from kedge_agent.transport.base import Transport
from kedge_agent.transport.grpc import GrpcTransport
from kedge_agent.transport.memory import MemoryLink, MemoryTransport
from kedge_wire.v1.order_pb2 import Envelope
from kedge_wire.v1.session_pb2 import Beat, DeviceMessage, ReportAck, ServerMessage
from kedge_wire.v1.session_pb2_grpc import DeviceGatewayServicer
from tests.simulators.gateway import serving
from tests.simulators.pki import Authority

TIMEOUT = 10


class Peer(ABC):
    """The other end, whichever transport it is."""

    transport: Transport

    @abstractmethod
    async def next(self) -> DeviceMessage: ...

    @abstractmethod
    async def push(self, message: ServerMessage) -> None: ...

    @abstractmethod
    async def hang_up(self) -> None: ...


class MemoryPeer(Peer):
    def __init__(self) -> None:
        self.transport = self._memory = MemoryTransport()
        self._link: MemoryLink | None = None

    async def link(self) -> MemoryLink:
        if self._link is None:
            self._link = await self._memory.links.get()
        return self._link

    async def next(self) -> DeviceMessage:
        return await (await self.link()).up.get()

    async def push(self, message: ServerMessage) -> None:
        await (await self.link()).down.put(message)

    async def hang_up(self) -> None:
        (await self.link()).closed.set()
        self._link = None


class GrpcPeer(DeviceGatewayServicer, Peer):
    def __init__(self) -> None:
        self._up: asyncio.Queue[DeviceMessage] = asyncio.Queue()
        self._down: asyncio.Queue[ServerMessage | None] = asyncio.Queue()

    async def Session(  # type: ignore[override]  # noqa: N802 - the reader form, by name
        self, request_iterator: Any, context: Any
    ) -> None:
        async def read() -> None:
            async for message in request_iterator:
                await self._up.put(message)

        reader = asyncio.create_task(read())
        while (message := await self._down.get()) is not None:
            await context.write(message)
        reader.cancel()

    async def next(self) -> DeviceMessage:
        return await self._up.get()

    async def push(self, message: ServerMessage) -> None:
        await self._down.put(message)

    async def hang_up(self) -> None:
        await self._down.put(None)


@pytest.fixture(params=["memory", "grpc"])
async def peer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Peer]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            yield MemoryPeer()
            return
        authority, grpc_peer = Authority(), GrpcPeer()
        target = await stack.enter_async_context(serving(grpc_peer, authority))
        tls = authority.tls_files(tmp_path, authority.device())
        grpc_peer.transport = GrpcTransport(target, tls=tls, timeout_s=TIMEOUT)
        yield grpc_peer


def beat(generation: int) -> DeviceMessage:
    return DeviceMessage(beat=Beat(generation=generation))


def ack(sequence: int) -> ServerMessage:
    return ServerMessage(ack=ReportAck(sequence=sequence))


async def first_message(transport: Transport) -> ServerMessage:
    async with asyncio.timeout(TIMEOUT), transport.connect() as session:
        await session.send(beat(1))
        return await session.receive()


async def test_messages_arrive_in_order_both_ways(peer: Peer) -> None:
    async with asyncio.timeout(TIMEOUT), peer.transport.connect() as session:
        for number in range(20):
            await session.send(beat(number))
        assert [(await peer.next()).beat.generation for _ in range(20)] == list(
            range(20)
        )
        for number in range(20):
            await peer.push(ack(number))
        assert [(await session.receive()).ack.sequence for _ in range(20)] == list(
            range(20)
        )


async def test_an_order_of_the_largest_size_arrives(peer: Peer) -> None:
    order = Envelope(payload=bytes(256 * 1024))
    async with asyncio.timeout(TIMEOUT), peer.transport.connect() as session:
        await session.send(beat(1))
        await peer.next()
        await peer.push(ServerMessage(order=order))
        assert (await session.receive()).order == order


async def test_sending_goes_on_while_receiving_waits(peer: Peer) -> None:
    async with asyncio.timeout(TIMEOUT), peer.transport.connect() as session:
        waiting = asyncio.create_task(session.receive())
        await session.send(beat(1))
        await peer.next()
        await peer.push(ack(9))
        assert (await waiting).ack.sequence == 9


async def test_a_peer_that_hangs_up_ends_the_session(peer: Peer) -> None:
    async with asyncio.timeout(TIMEOUT), peer.transport.connect() as session:
        await session.send(beat(1))
        await peer.next()
        await peer.hang_up()
        with pytest.raises(NetworkError):
            await session.receive()
        with pytest.raises(NetworkError):
            await session.send(beat(2))


async def test_a_session_can_be_opened_after_another_ended(peer: Peer) -> None:
    async with asyncio.timeout(TIMEOUT):
        for number in range(2):
            async with peer.transport.connect() as session:
                await session.send(beat(number))
                assert (await peer.next()).beat.generation == number
                await peer.hang_up()
                with pytest.raises(NetworkError):
                    await session.receive()


async def test_nobody_there_is_a_network_error(tmp_path: Path) -> None:
    authority, memory = Authority(), MemoryTransport()
    memory.reachable = False
    tls = authority.tls_files(tmp_path, authority.device())
    for transport in (memory, GrpcTransport("127.0.0.1:9", tls=tls, timeout_s=0.2)):
        with pytest.raises(NetworkError, match="expected"):
            async with transport.connect():
                pass


async def test_a_device_of_another_authority_is_not_admitted(tmp_path: Path) -> None:
    ours, theirs, peer = Authority(), Authority(), GrpcPeer()
    async with serving(peer, ours) as target:
        files = ours.tls_files(tmp_path, theirs.device())
        transport = GrpcTransport(target, tls=files, timeout_s=2)
        with pytest.raises(NetworkError):
            await first_message(transport)


async def test_a_server_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    ours, theirs, peer = Authority(), Authority(), GrpcPeer()
    async with serving(peer, theirs) as target:
        files = ours.tls_files(tmp_path, theirs.device())
        with pytest.raises(NetworkError, match="TLS connection"):
            async with GrpcTransport(target, tls=files, timeout_s=0.5).connect():
                pass


async def test_a_missing_certificate_is_a_network_error_that_names_it(
    tmp_path: Path,
) -> None:
    authority = Authority()
    files = authority.tls_files(tmp_path, authority.device())
    files.certificate.unlink()
    with pytest.raises(NetworkError, match="identity"):
        async with GrpcTransport("127.0.0.1:9", tls=files, timeout_s=0.2).connect():
            pass


async def test_messages_that_are_sent_at_the_same_time_all_arrive(peer: Peer) -> None:
    """Reports and beats are tasks of their own; they share one stream."""
    async with (
        asyncio.timeout(TIMEOUT),
        peer.transport.connect() as session,
        asyncio.TaskGroup() as tasks,
    ):
        for generation in range(50):
            tasks.create_task(session.send(beat(generation)))
        arrived = {(await peer.next()).beat.generation for _ in range(50)}
    assert arrived == set(range(50))
