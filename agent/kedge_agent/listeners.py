# SPDX-License-Identifier: Apache-2.0
"""The device's serving addresses, held by the supervisor so that they outlive runtimes.

HTTP: the listening socket is inherited by every runtime, which accepts from it. While
no runtime lives, connections wait in its backlog.

gRPC: grpcio cannot adopt a listener. Here each accepted connection is spliced to the
runtime's Unix socket; while that is missing, it waits for a bounded time. What is in
flight inside a runtime that dies is lost with it: the client sees a closed connection.
"""

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import Final

from kedge_agent.errors import SettingsError
from kedge_agent.settings import Address

logger = logging.getLogger(__name__)

BACKLOG: Final = 512
"""Connections that may wait through a restart of the runtime."""

CHUNK_BYTES: Final = 64 * 1024
_POLL_SECONDS: Final = 0.05
_ACCEPT_PAUSE_SECONDS: Final = 0.2


def listen(address: Address) -> socket.socket:
    """Bind and listen.

    Raises:
        SettingsError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise SettingsError(
            f"serving: expected to listen on {address}, found {exc.strerror or exc}",
            element=str(address),
        ) from exc
    return listener


def address_of(listener: socket.socket) -> Address:
    """Return the address that a listener really has."""
    host, port = listener.getsockname()[:2]
    return Address(host=host, port=port)


class Splice:
    """Connections of one TCP listener, carried to a Unix socket.

    At most `connections` at a time; more wait in the listener's backlog.
    """

    def __init__(
        self,
        listener: socket.socket,
        target: Path,
        *,
        connections: int,
        grace_s: float,
    ) -> None:
        self._listener, self._target = listener, target
        self._grace_s = grace_s
        self._free = asyncio.Semaphore(connections)

    async def run(self) -> None:
        """Accept until cancelled; then every connection is closed."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._free.acquire()
                try:
                    client, _ = await loop.sock_accept(self._listener)
                except OSError as exc:  # no descriptors left, or the client left
                    self._free.release()
                    logger.warning("splice.accept_failed: %s", exc)
                    await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                    continue
                client.setblocking(False)
                tasks.create_task(self._carry(client), name="splice-connection")

    async def _carry(self, client: socket.socket) -> None:
        try:
            with client:
                runtime = await self._reach()
                if runtime is None:
                    logger.warning("splice.no_runtime: waited %g s", self._grace_s)
                    return
                with runtime:
                    await _both_ways(client, runtime)
        except OSError as exc:
            logger.debug("splice.closed: %s", exc)
        finally:
            self._free.release()

    async def _reach(self) -> socket.socket | None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while True:
                    runtime = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    runtime.setblocking(False)
                    try:
                        await loop.sock_connect(runtime, str(self._target))
                    except OSError:
                        runtime.close()
                        await asyncio.sleep(_POLL_SECONDS)
                    except BaseException:
                        runtime.close()
                        raise
                    else:
                        return runtime
        return None


async def _both_ways(client: socket.socket, runtime: socket.socket) -> None:
    """Carry bytes until one side is gone; then neither has anything to say."""
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_one_way(client, runtime), name="splice-up")
            tasks.create_task(_one_way(runtime, client), name="splice-down")


async def _one_way(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    while count := await loop.sock_recv_into(source, buffer):
        await loop.sock_sendall(target, view[:count])
    # An end in one direction ends the connection: HTTP/2 does not use half-closed ones.
    raise ConnectionResetError("closed by its peer")
