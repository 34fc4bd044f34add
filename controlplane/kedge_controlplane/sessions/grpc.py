# SPDX-License-Identifier: Apache-2.0
"""Device sessions over gRPC and mutual TLS.

    connect ── certificate ──▶ Hello ──▶ in:  Reports and Beats
                            within 10 s  out: orders and acknowledgements

Who speaks is read from the certificate that TLS verified, never from a message. Each
call has two tasks, one per direction, owned by the call; the first that ends ends the
call. The outbound queue is bounded: a device that does not read loses its session, and
on the next one gets what it misses. Killed at any point, a report is either committed
or sent again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import grpc
import grpc.aio

from kedge_controlplane.errors import (
    NotFoundError,
    SettingsError,
    TooManyRequestsError,
    TrustError,
    UnavailableError,
)
from kedge_controlplane.reconcile.loop import Key
from kedge_controlplane.sessions.base import DeviceSession
from kedge_controlplane.sessions.hub import Hub
from kedge_controlplane.sessions.ingest import Ingest
from kedge_controlplane.sessions.leases import LeaseBook
from kedge_controlplane.store import certificates
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.identity import identity_from_pem
from kedge_wire.v1.session_pb2 import DeviceMessage, ReportAck, ServerMessage
from kedge_wire.v1.session_pb2_grpc import (
    DeviceGatewayServicer,
    add_DeviceGatewayServicer_to_server,
)
from kedge_wire.version import PROTOCOL

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 1024 * 1024
HELLO_WITHIN: Final = timedelta(seconds=10)
OUTBOUND: Final = 16
"""Messages that wait for a device; orders replace one another, so few suffice."""

SETTLE_S: Final = 10.0
"""The longest that the end of a session waits for a message to leave."""

MAX_CALLS: Final = 20_000
"""Sessions of one process; file descriptors end about there."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second server on the port is an error
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_concurrent_streams", 4),  # of one connection: one device
)

_Context = grpc.aio.ServicerContext[DeviceMessage, ServerMessage]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKeys:
    key_pem: bytes
    chain_pem: bytes
    devices_root_pem: bytes


class _EndedError(Exception):
    """Ends a call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _GrpcSession(DeviceSession):
    def __init__(self, device: Key) -> None:
        super().__init__(device)
        self._outbound: asyncio.Queue[ServerMessage] = asyncio.Queue(OUTBOUND)
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._writing: asyncio.Task[None] | None = None

    def send(self, message: ServerMessage) -> bool:
        if self._ended.done():
            return False
        try:
            self._outbound.put_nowait(message)
        except asyncio.QueueFull:
            self.end("the device does not read")
            return False
        return True

    def end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)

    async def deliver(self, context: _Context) -> None:
        """Write what is queued until cancelled; a write that began goes on."""
        while True:
            message = await self._outbound.get()
            write = context.write(message)
            self._writing = asyncio.create_task(write, name=f"send {self.device}")
            await asyncio.shield(self._writing)

    async def settle(self) -> None:
        """Let the write under way end: gRPC takes no status before."""
        if self._writing is None:
            return
        await asyncio.wait({self._writing}, timeout=SETTLE_S)
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)

    async def ended(self) -> str:
        return await self._ended


class Gateway(DeviceGatewayServicer):
    """Serves device sessions; its parts are shared with other transports."""

    def __init__(
        self,
        *,
        store: Store,
        hub: Hub,
        ingest: Ingest,
        leases: LeaseBook,
        hello_within: timedelta = HELLO_WITHIN,
    ) -> None:
        self._store = store
        self._hub = hub
        self._ingest = ingest
        self._leases = leases
        self._hello_within_s = hello_within.total_seconds()

    async def Session(  # type: ignore[override] # noqa: N802 - the service's name; reads and writes through the context
        self,
        request_iterator: AsyncIterator[DeviceMessage],
        context: _Context,
    ) -> None:
        del request_iterator
        ended = await self._run(context)
        logger.info("call ended: %s", ended.details)
        if ended.code is not grpc.StatusCode.OK:
            with suppress(grpc.aio.InternalError):  # a message is stuck for good
                await context.abort(ended.code, ended.details)

    async def _run(self, context: _Context) -> _EndedError:
        """Serve a call to its end, and say why it ended."""
        try:
            device = await self._authenticate(context)
            await self._serve(device, context)
        except* _EndedError as group:
            ended = _first(group)
        return ended

    async def _authenticate(self, context: _Context) -> Key:
        peer = context.auth_context().get("x509_pem_cert", ())
        try:
            identity = identity_from_pem(next(iter(peer), b""))
        except TrustError as exc:
            raise _unauthenticated(str(exc)) from exc
        with _answered(Key(identity.namespace, identity.device)):
            certificate = await certificates.find(self._store, identity.serial)
        if certificate is None or (certificate.namespace, certificate.device) != (
            identity.namespace,
            identity.device,
        ):
            raise _unauthenticated(f"{identity}: this certificate is not known")
        if certificate.revoked_at is not None:
            raise _unauthenticated(f"{identity}: the certificate was revoked")
        return Key(identity.namespace, identity.device)

    async def _serve(self, device: Key, context: _Context) -> None:
        session = _GrpcSession(device)
        generation = await self._greet(device, context)
        self._hub.open(session, generation=generation)
        left = True  # a connection that breaks cancels the call
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(session, context), name=f"read {device}")
                tasks.create_task(session.deliver(context), name=f"write {device}")
                tasks.create_task(_watch_end(session), name=f"end {device}")
        except* _EndedError as group:
            left = _first(group).code is grpc.StatusCode.OK
            raise
        finally:
            # A session that this side ended says nothing about its device.
            if self._hub.close(session) and left:
                self._leases.leave(device)
            await session.settle()

    async def _greet(self, device: Key, context: _Context) -> int:
        """Wait for Hello; return the generation that the device knows."""
        try:
            async with asyncio.timeout(self._hello_within_s):
                message = await _receive(context)
        except TimeoutError as exc:
            raise _EndedError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"expected Hello within {self._hello_within_s:g} s",
            ) from exc
        if message.WhichOneof("body") != "hello":
            raise _invalid("expected Hello first")
        if message.hello.protocol != PROTOCOL:
            raise _EndedError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"expected protocol {PROTOCOL}, found {message.hello.protocol}",
            )
        with _answered(device):
            await self._ingest.hello(device, message.hello)
        self._leases.renew(device)
        return message.hello.generation

    async def _read(self, session: _GrpcSession, context: _Context) -> None:
        first = True
        while True:
            message = await _receive(context)
            self._leases.renew(session.device)
            match message.WhichOneof("body"):
                case "report":
                    report = message.report
                    with _answered(session.device):
                        await self._ingest.report(session.device, report, first=first)
                    first = False
                    self._hub.note_generation(
                        session, max(report.generation, report.refused_generation)
                    )
                    session.send(ServerMessage(ack=ReportAck(sequence=report.sequence)))
                case "beat":
                    self._hub.note_generation(session, message.beat.generation)
                case "hello":
                    raise _invalid("expected Hello once, found another")
                case _:
                    pass  # of a newer agent


class GatewayServer:
    """The listening side; `start` binds, `stop` lets no call outlive it.

    gRPC asks for the keys at every handshake, on a thread of its own: they are one
    immutable value.
    """

    def __init__(self, gateway: Gateway, *, keys: ServerKeys) -> None:
        self._server = grpc.aio.server(
            options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS
        )
        add_DeviceGatewayServicer_to_server(gateway, self._server)
        self._keys = _configuration(keys)
        self._credentials = grpc.dynamic_ssl_server_credentials(
            self._keys, lambda: self._keys, require_client_authentication=True
        )

    async def start(self, address: str) -> int:
        """Bind and serve; return the port.

        Raises:
            SettingsError: The address cannot be bound.
        """
        try:
            port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as exc:
            raise SettingsError(f"gateway: cannot listen on {address}") from exc
        await self._server.start()
        return port

    def renew(self, keys: ServerKeys) -> None:
        """Show other keys from the next connection on."""
        self._keys = _configuration(keys)

    async def stop(self, *, grace: timedelta) -> None:
        await self._server.stop(grace.total_seconds())


def _configuration(keys: ServerKeys) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(keys.key_pem, keys.chain_pem)], root_certificates=keys.devices_root_pem
    )


async def _receive(context: _Context) -> DeviceMessage:
    message: Any = await context.read()
    if message is grpc.aio.EOF:
        raise _EndedError(grpc.StatusCode.OK, "the device closed the session")
    if not isinstance(message, DeviceMessage):
        raise _invalid("expected a DeviceMessage")
    return message


async def _watch_end(session: _GrpcSession) -> None:
    raise _EndedError(grpc.StatusCode.ABORTED, await session.ended())


@contextmanager
def _answered(device: Key) -> Iterator[None]:
    """Turn the store's refusals into the call's status."""
    try:
        yield
    except NotFoundError as exc:
        raise _unauthenticated(f"{device}: there is no such device") from exc
    except (TooManyRequestsError, UnavailableError) as exc:
        raise _EndedError(grpc.StatusCode.UNAVAILABLE, str(exc)) from exc


def _first(group: BaseExceptionGroup[_EndedError]) -> _EndedError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")


def _unauthenticated(details: str) -> _EndedError:
    return _EndedError(grpc.StatusCode.UNAUTHENTICATED, details)


def _invalid(details: str) -> _EndedError:
    return _EndedError(grpc.StatusCode.INVALID_ARGUMENT, details)
