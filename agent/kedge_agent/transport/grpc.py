# SPDX-License-Identifier: Apache-2.0
"""Sessions over one bidirectional gRPC stream with mutual TLS.

The credentials are read from their files at every connect, so a renewed certificate
needs no restart. Cancelling a waiting `send` or `receive` ends the session; nothing is
kept.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc

from kedge_agent.errors import NetworkError
from kedge_agent.settings import TlsFiles
from kedge_agent.transport.base import Session, Transport
from kedge_wire.v1.session_pb2 import DeviceMessage, ServerMessage
from kedge_wire.v1.session_pb2_grpc import DeviceGatewayStub

if TYPE_CHECKING:
    Stream = grpc.aio.StreamStreamCall[DeviceMessage, ServerMessage]

MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""Above the limit of an order, so that a too long one is refused by name."""

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),  # notices a cut line through any NAT
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new connect is a new connection
)


class GrpcTransport(Transport):
    """Connects to the control plane's `DeviceGateway`."""

    def __init__(self, target: str, *, tls: TlsFiles, timeout_s: float) -> None:
        """Keep `target` (`host:port`); `timeout_s` bounds a connect and a send."""
        self._target, self._tls, self._timeout_s = target, tls, timeout_s

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Session]:
        credentials = await asyncio.to_thread(_credentials, self._tls)
        async with grpc.aio.secure_channel(
            self._target, credentials, options=_OPTIONS
        ) as channel:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await channel.channel_ready()
            except TimeoutError as exc:
                raise NetworkError(
                    f"gateway {self._target}: expected a TLS connection within "
                    f"{self._timeout_s:g} s, found none",
                    element=self._target,
                ) from exc
            call = DeviceGatewayStub(channel).Session()
            try:
                yield _GrpcSession(call, target=self._target, timeout_s=self._timeout_s)
            finally:
                call.cancel()


class _GrpcSession(Session):
    def __init__(self, call: "Stream", *, target: str, timeout_s: float) -> None:
        self._call, self._target, self._timeout_s = call, target, timeout_s
        self._writing = asyncio.Lock()  # gRPC takes one write at a time

    async def send(self, message: DeviceMessage) -> None:
        try:
            async with asyncio.timeout(self._timeout_s), self._writing:
                await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as exc:
            raise self._over(exc) from exc

    async def receive(self) -> ServerMessage:
        try:
            message = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as exc:
            raise self._over(exc) from exc
        if not isinstance(message, ServerMessage):
            raise NetworkError(
                f"gateway {self._target}: expected a message, found the end of the "
                "session",
                element=self._target,
            )
        return message

    def _over(self, exc: Exception) -> NetworkError:
        found = (
            f"{exc.code().name}: {exc.details()}"
            if isinstance(exc, grpc.aio.AioRpcError)
            else str(exc) or type(exc).__name__
        )
        return NetworkError(
            f"gateway {self._target}: expected an open session, found {found}",
            element=self._target,
        )


def _credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=tls.ca.read_bytes(),
            private_key=tls.key.read_bytes(),
            certificate_chain=tls.certificate.read_bytes(),
        )
    except OSError as exc:
        raise NetworkError(
            f"identity: expected readable {tls.certificate.parent}, found {exc}",
            element=str(tls.certificate.parent),
        ) from exc
