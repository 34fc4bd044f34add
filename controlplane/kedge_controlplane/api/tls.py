# SPDX-License-Identifier: Apache-2.0
"""Serves the API over TLS on a listening socket, in the caller's event loop.

A client may show a certificate; one that our authority did not sign ends the handshake,
one that it signed reaches the application through the ASGI scope. Signals are the
caller's. To stop is to end the watches, to let requests finish for a while, and to
cancel what is left.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kedge_controlplane.api.access import TLS_EXTENSION
from kedge_controlplane.api.streams import Streams

GRACE_S: Final = 5
KEEP_ALIVE_S: Final = 75
BACKLOG: Final = 512
HEAD_LIMIT: Final = 64 * 1024  # bytes of request line and headers
LINGER_S: Final = 0.5  # for the last bytes of an answer
HEAD_S: Final = 30.0  # for them to arrive


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files."""

    certificate: Path  # leaf first; may hold the key as well
    key: Path
    client_authority: Path


class _Protocol(HttpToolsProtocol):
    """Tells the application who is at the other end of the TLS connection.

    uvicorn waits for ever for the end of a request's head, however long; strangers
    can send one, so it has a time and a size here.
    """

    _deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT:
                self.transport.close()

    def on_headers_complete(self) -> None:
        self._head_ended()
        super().on_headers_complete()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            # An idle client does not answer the TLS farewell: do not wait for it.
            self.loop.call_later(LINGER_S, self.transport.abort)

    def _expect_head(self) -> None:
        self._head_ended()
        self._deadline = self.loop.call_later(HEAD_S, self.transport.close)

    def _head_ended(self) -> None:
        self._in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()
        self._in_head, self._head_bytes = True, 0
        connection = self.transport.get_extra_info("ssl_object")
        der = None if connection is None else connection.getpeercert(binary_form=True)
        self.scope["extensions"] = {TLS_EXTENSION: {"peer_certificate": der}}


class _Server(uvicorn.Server):
    """Leaves signals alone and says when it accepts connections."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()


def _ignore(*_: object) -> None:
    pass


async def serve(
    app: Starlette,
    *,
    listener: socket.socket,
    tls: TlsFiles,
    stop: asyncio.Event,
    ready: Callable[[], None] = _ignore,
    secured: Callable[[ssl.SSLContext], None] = _ignore,
) -> None:
    """Serve until `stop` is set or the caller is cancelled; then stop gracefully.

    Args:
        app: what `build_app` returned.
        listener: bound and listening or not yet; closed at the end.
        tls: key, certificate and the authority of client certificates.
        stop: set it to stop.
        ready: called once connections are accepted.
        secured: given what new connections begin with, so that its certificate can be
            exchanged.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
        ssl_certfile=tls.certificate,
        ssl_keyfile=tls.key,
        ssl_ca_certs=str(tls.client_authority),
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
    )
    config.load()
    if config.ssl is None:
        raise AssertionError("uvicorn makes a context where it gets a certificate")
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    secured(config.ssl)
    server = _Server(config, ready)
    streams: Streams = app.state.streams
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="api.server")
    stopping = asyncio.create_task(stop.wait(), name="api.stop")
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        streams.drain()
        server.should_exit = True
        await serving  # bounded by GRACE_S
