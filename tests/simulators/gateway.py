# SPDX-License-Identifier: Apache-2.0
"""The control plane's end of the device sessions: gRPC with mutual TLS, no database.

Like the real one it sends its order whenever a device is behind, and acknowledges every
report; unlike it, it remembers all of them for the test to look at.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from kedge_wire.v1.order_pb2 import Envelope, Order
from kedge_wire.v1.report_pb2 import Report
from kedge_wire.v1.session_pb2 import DeviceMessage, ReportAck, ServerMessage
from kedge_wire.v1.session_pb2_grpc import (
    DeviceGatewayServicer,
    add_DeviceGatewayServicer_to_server,
)
from tests.simulators.pki import Authority

Stream = grpc.aio.ServicerContext[DeviceMessage, ServerMessage]


class Gateway(DeviceGatewayServicer):
    """One order for whoever comes. `target` is where it listens."""

    def __init__(self) -> None:
        self.target = ""
        self.acknowledge = True
        self.reports: list[Report] = []
        self.hellos: list[DeviceMessage] = []
        self._order: Envelope | None = None
        self._generation = 0
        self._streams: dict[Stream, asyncio.Lock] = {}  # gRPC: one write at a time
        self._news = asyncio.Condition()

    async def put(self, envelope: Envelope) -> None:
        """Want this from now on, and say so to who is connected."""
        self._order = envelope
        self._generation = Order.FromString(envelope.payload).generation
        for stream in list(self._streams):
            await self._write(stream, ServerMessage(order=envelope))

    async def until(
        self, wanted: Callable[[Report], bool], *, timeout_s: float = 20
    ) -> Report:
        """Wait for a report, newest first; those before this call count as well."""
        async with asyncio.timeout(timeout_s), self._news:
            while True:
                for report in reversed(self.reports):
                    if wanted(report):
                        return report
                await self._news.wait()

    async def until_connected(self) -> None:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: bool(self.hellos))

    async def Session(  # type: ignore[override]  # noqa: N802 - the reader form, by name
        self, request_iterator: Any, context: Any
    ) -> None:
        self._streams[context] = asyncio.Lock()
        try:
            async for message in request_iterator:
                await self._on_message(message, context)
        finally:
            del self._streams[context]

    async def _write(self, stream: Stream, message: ServerMessage) -> None:
        lock = self._streams.get(stream)
        if lock is not None:  # it may have ended meanwhile
            async with lock:
                await stream.write(message)

    async def _on_message(self, message: DeviceMessage, stream: Stream) -> None:
        kind = message.WhichOneof("body")
        if kind == "report":
            self.reports.append(message.report)
            if self.acknowledge:
                ack = ReportAck(sequence=message.report.sequence)
                await self._write(stream, ServerMessage(ack=ack))
        elif kind == "hello":
            self.hellos.append(message)
        behind = max(message.hello.generation, message.beat.generation)
        if kind != "report" and self._order and behind < self._generation:
            await self._write(stream, ServerMessage(order=self._order))
        async with self._news:
            self._news.notify_all()


@asynccontextmanager
async def serving(
    servicer: DeviceGatewayServicer, authority: Authority
) -> AsyncIterator[str]:
    """Serve on a free port; yield `host:port`."""
    issued = authority.server()
    credentials = grpc.ssl_server_credentials(
        [(issued.key, issued.certificate)], authority.pem, require_client_auth=True
    )
    server = grpc.aio.server()
    add_DeviceGatewayServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=0)
