# SPDX-License-Identifier: Apache-2.0
"""Serves the ASGI application on sockets that the caller holds, with uvicorn.

The caller owns the event loop, the signals and the listeners; uvicorn owns connections.
It bounds neither how long a request's head is, nor how long it takes to arrive, nor how
long a client may leave its answer unread, nor how many connections there are: the
protocol here does. Leaving the context stops accepting and lets requests under way
finish.
"""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kedge_agent.serving.http import HttpApp

MAX_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers of one request, as other servers have it."""

IDLE_S: Final = 60
"""A connection without a request under way. Longer than clients keep theirs pooled."""

WRITE_S: Final = 60
"""For the client to take an answer that does not fit its socket's buffer."""

MAX_PIPELINED: Final = 16
"""Requests sent ahead while one is answered. Each takes much more than its bytes."""

MAX_CONNECTIONS: Final = 1024
"""Or half of the file descriptors that this process may have, if that is less: models
and components need the others. Above it, a connection ends as soon as it is made."""


@asynccontextmanager
async def serve_http(
    app: HttpApp, *, sockets: Sequence[socket.socket], drain_s: int = 10
) -> AsyncIterator[None]:
    """Serve while the context is open.

    Args:
        app: What answers.
        sockets: Listening or bound; closed on leaving, as far as this process holds
            them.
        drain_s: How long requests under way may take to finish on leaving.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        http=_Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=drain_s,
    )
    listeners = list(sockets)
    config.load()
    server = uvicorn.Server(config)
    # What Server.serve does, less taking over the process's signals.
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=listeners)
    # Not a task group: it would wrap the exceptions of whoever uses this context.
    clock = asyncio.create_task(server.main_loop(), name="http-clock")
    try:
        yield
    finally:
        clock.cancel()
        await asyncio.wait({clock})
        await server.shutdown(sockets=listeners)


class _RefusedError(Exception):
    """Raised through the parser, so that it stops there and the caller gets a 400."""


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds on what a connection may keep.

    The parser hands on heads, pieces of bodies and ends of messages. What it swallows
    between two of them is a head, or trailers: those bytes are counted. Bytes that
    come together with something handed on are not, since a body may be among them; a
    head that ends there is measured by itself.

    One timer runs on each connection, from the start and anew after each answer. It
    ends the connection unless a request is being answered then.
    """

    _asked = False
    _handed_on = False
    _swallowed_bytes = 0
    _idle_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]  # as in the base class
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        if len(self.connections) > _max_connections():
            transport.abort()
        else:
            self._restart_idle_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._idle_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._handed_on = False
        super().data_received(data)
        self._swallowed_bytes += len(data)
        if self._handed_on:
            self._swallowed_bytes = 0
        elif self._swallowed_bytes > MAX_HEAD_BYTES:
            self.send_400_response("Request head is too long.")

    def on_headers_complete(self) -> None:
        self._handed_on = True
        fields = sum(len(name) + len(value) for name, value in self.headers)
        too_long = len(self.url) + fields > MAX_HEAD_BYTES
        if too_long or len(self.pipeline) >= MAX_PIPELINED:
            raise _RefusedError
        super().on_headers_complete()
        self._asked = True

    def on_body(self, body: bytes) -> None:
        self._handed_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._handed_on = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._restart_idle_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _restart_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = self.loop.call_later(IDLE_S, self._idle)

    def _idle(self) -> None:
        # A slow answer is not idleness. There is no cycle before the first request.
        if self._asked and not self.cycle.response_complete:
            self._restart_idle_timer()
        else:
            # Not close, which waits for a client that does not read.
            self.transport.abort()


def _max_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, files // 2)
