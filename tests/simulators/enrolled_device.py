# SPDX-License-Identifier: Apache-2.0
"""A simulated device: enrols with its own key, speaks the real session over mutual TLS.

It takes every order that reaches it and answers as it is told to. It runs nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from kedge_wire.v1.order_pb2 import Order
from kedge_wire.v1.report_pb2 import (
    PHASE_ERROR,
    PHASE_UPDATED,
    RESULT_FAILED_ROLLBACK_COMPLETE,
    RESULT_SUCCESSFUL,
    Failure,
    Report,
    WorkloadStatus,
)
from kedge_wire.v1.session_pb2 import Beat, DeviceMessage, Facts, Hello, ServerMessage
from kedge_wire.v1.session_pb2_grpc import DeviceGatewayStub
from kedge_wire.version import PROTOCOL

WAIT_S = 10.0
"""The longest that a test waits for a message."""


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def csr_pem(key: ec.EllipticCurvePrivateKey, common_name: str = "ignored") -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What enrolment leaves on a device."""

    namespace: str
    device: str
    key_pem: bytes
    certificate_pem: bytes
    root_pem: bytes


def succeeded(order: Order) -> Report:
    """Answer that the update worked: what the order says now serves."""
    return Report(
        generation=order.generation,
        running_generation=order.generation,
        running_template_version=order.template_version,
        phase=PHASE_UPDATED,
        result=RESULT_SUCCESSFUL,
        workloads=[
            WorkloadStatus(
                name=workload.name,
                tenant=workload.tenant,
                component_sha256=workload.component.sha256,
                model_sha256=workload.model.sha256,
                config_sha256=workload.config.sha256,
                model_version=f"{workload.model.name}@{workload.model.version}",
                ready=True,
            )
            for workload in order.workloads
        ],
    )


def rolled_back(order: Order) -> Report:
    """Answer that the update failed and nothing new serves."""
    return Report(
        generation=order.generation,
        phase=PHASE_ERROR,
        result=RESULT_FAILED_ROLLBACK_COMPLETE,
        failure=Failure(
            phase=PHASE_ERROR,
            component="runtime",
            element="digits",
            code="DATA_LOSS",
            message="expected a model that loads",
        ),
    )


class Session:
    """One call to the gateway; `greet` makes it a session."""

    def __init__(self, call: Any, *, generation: int, sequence: int) -> None:
        self._call = call
        self.generation = generation
        self.sequence = sequence

    async def greet(self, *, protocol: int = PROTOCOL) -> None:
        hello = Hello(
            protocol=protocol,
            agent_version="0",
            generation=self.generation,
            facts=Facts(hostname="sim", architecture="x86_64", cpus=2),
        )
        await self.send(DeviceMessage(hello=hello))

    async def send(self, message: DeviceMessage) -> None:
        await self._call.write(message)

    async def beat(self) -> None:
        await self.send(DeviceMessage(beat=Beat(generation=self.generation)))

    async def receive(self) -> ServerMessage:
        """Return the next message; raises EOFError when the session ends."""
        message = await self._read()
        if message is None:
            raise EOFError(f"{await self._call.code()}: {await self._call.details()}")
        return message

    async def receive_order(self) -> Order:
        """Return the next order that is newer than what the device knows."""
        while True:
            message = await self.receive()
            if message.WhichOneof("body") == "order":
                order = Order.FromString(message.order.payload)
                if order.generation > self.generation:
                    self.generation = order.generation
                    return order

    async def report(self, report: Report) -> None:
        """Send a report and wait until the server has committed it."""
        self.sequence += 1
        report.sequence = self.sequence
        await self.send(DeviceMessage(report=report))
        while (await self.receive()).ack.sequence != self.sequence:
            pass

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the server to end the session; say how."""
        while await self._read() is not None:
            pass
        return await self._call.code(), await self._call.details()

    async def close(self) -> None:
        await self._call.done_writing()

    async def _read(self) -> ServerMessage | None:
        try:
            async with asyncio.timeout(WAIT_S):
                message = await self._call.read()
        except grpc.aio.AioRpcError:
            return None
        return message if isinstance(message, ServerMessage) else None


@dataclass(slots=True, kw_only=True)
class SimulatedDevice:
    """Keeps across sessions what a device keeps on its disk."""

    identity: Identity
    gateway: str
    answer: Callable[[Order], Report] = succeeded
    generation: int = 0
    sequence: int = 0
    orders: list[Order] = field(default_factory=list)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Session]:
        """Open a call; nothing is said yet."""
        credentials = grpc.ssl_channel_credentials(
            self.identity.root_pem,
            private_key=self.identity.key_pem,
            certificate_chain=self.identity.certificate_pem,
        )
        async with grpc.aio.secure_channel(self.gateway, credentials) as channel:
            stub: Any = DeviceGatewayStub(channel)
            session = Session(
                stub.Session(), generation=self.generation, sequence=self.sequence
            )
            try:
                yield session
            finally:
                self.generation = session.generation
                self.sequence = session.sequence

    async def run(self) -> None:
        """Take orders and answer them; ends when the server ends the session."""
        async with self.connect() as session:
            await session.greet()
            while True:
                order = await session.receive_order()
                self.orders.append(order)
                await session.report(self.answer(order))
