# SPDX-License-Identifier: Apache-2.0
"""Serves the ASGI application on sockets that the caller holds, with uvicorn.

The caller owns the event loop, the signals and the listeners; uvicorn owns connections.
It bounds neither how long a request's head is nor how long it takes to arrive, so the
protocol here does. Leaving the context stops accepting and lets requests under way
finish.
"""

import asyncio
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

MAX_CONNECTIONS: Final = 1024
"""Above it, requests are refused with 503 and the file descriptors stay enough."""


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
        limit_concurrency=MAX_CONNECTIONS,
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


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with a bound on the size and duration of a request's head.

    reading head --headers complete--> reading body, answering --message complete--+
         ^                                                                          |
         +--------------------------------------------------------------------------+
    """

    _asked = False
    _head_open = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]  # as in the base class
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._head_open:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response("Request head is too long.")
        else:
            self._arm()

    def on_headers_complete(self) -> None:
        self._asked = True
        self._head_open = False
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_open = True
        self._head_bytes = 0

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(IDLE_S, self._head_late)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        # A slow answer is not a late head. There is no cycle before the first request.
        if self._asked and not self.cycle.response_complete:
            self._arm()
        else:
            self.transport.close()
