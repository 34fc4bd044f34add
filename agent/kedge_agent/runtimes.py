# SPDX-License-Identifier: Apache-2.0
"""The runtime process: starting it, and starting it again.

    stopped -> starting -> ready -> (exited, hung or asked to stop) -> stopped

`RuntimeProcess.run` owns the process. Whoever wants something of it holds a
`RuntimeClient`, which belongs to one incarnation: when that is gone, each of its calls
raises `RuntimeLostError`, and the next incarnation has loaded nothing. The process has
its own session, so a terminal's Ctrl-C reaches it through us only, and it dies with us.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kedge_agent.backoff import Backoff
from kedge_agent.errors import AgentError, SettingsError
from kedge_agent.runtime_client import RuntimeClient
from kedge_agent.settings import Timing

logger = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimePlan:
    """How a runtime is started."""

    command: tuple[str, ...]
    control_socket: Path
    inference_socket: Path
    http_fd: int
    timing: Timing

    def arguments(self, *, hold: bool) -> list[str]:
        return [
            *self.command,
            "--socket",
            str(self.control_socket),
            "--http-fd",
            str(self.http_fd),
            "--grpc-socket",
            str(self.inference_socket),
            "--parent",
            str(os.getpid()),
            *(["--hold"] if hold else []),
        ]


class RuntimeProcess:
    """Keeps one runtime alive; `client` is set while an incarnation is ready."""

    def __init__(self, plan: RuntimePlan) -> None:
        self._plan = plan
        self._process: Process | None = None
        self._turn = asyncio.Event()
        self.client: RuntimeClient | None = None
        self.incarnation = 0

    async def run(
        self, *, hold: Callable[[], bool], changed: Callable[[], None]
    ) -> None:
        """Start the runtime, again and again, until cancelled; then stop it.

        Args:
            hold: Whether a new incarnation waits for its first generation before it
                takes connections.
            changed: Called whenever `client` becomes another one, or none.

        Raises:
            SettingsError: The program cannot be started at all.
        """
        backoff = Backoff(first_s=0.2, longest_s=30.0)
        while True:
            started = time.monotonic()
            process = await self._start(hold=hold())
            try:
                await self._serve(process, changed)
            finally:
                await self._stop(process)
            if time.monotonic() - started >= self._plan.timing.runtime_stable:
                backoff.reset()
            wait = backoff.next_s()
            logger.warning(
                "runtime.ended: code=%s incarnation=%d restart_in=%.1f s",
                process.returncode,
                self.incarnation,
                wait,
            )
            await asyncio.sleep(wait)

    async def wait_change(self) -> None:
        """Wait until `client` is another one, or none."""
        await self._turn.wait()

    def kill(self) -> None:
        """End an incarnation that hangs; `run` starts the next."""
        self._set_client(None)
        if self._process is not None:
            _signal_group(self._process, signal.SIGKILL)

    def _set_client(self, client: RuntimeClient | None) -> None:
        self.client = client
        self._turn.set()
        self._turn = asyncio.Event()

    async def _start(self, *, hold: bool) -> Process:
        for path in (self._plan.control_socket, self._plan.inference_socket):
            path.unlink(missing_ok=True)
        arguments = self._plan.arguments(hold=hold)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=DEVNULL,
                pass_fds=(self._plan.http_fd,),
                start_new_session=True,
            )
        except OSError as exc:
            raise SettingsError(
                f"runtime: expected to start {arguments[0]}, found {exc.strerror}",
                element=arguments[0],
            ) from exc
        return self._process

    async def _serve(self, process: Process, changed: Callable[[], None]) -> None:
        client = RuntimeClient(self._plan.control_socket, timing=self._plan.timing)
        ended = asyncio.create_task(process.wait(), name="runtime-ended")
        try:
            if await self._ready(client, ended):
                self.incarnation += 1
                logger.info(
                    "runtime.ready: pid=%d incarnation=%d",
                    process.pid,
                    self.incarnation,
                )
                self._set_client(client)
                changed()
                await asyncio.wait({ended})
        finally:
            ended.cancel()
            self._set_client(None)
            changed()
            await client.close()

    async def _ready(self, client: RuntimeClient, ended: asyncio.Task[int]) -> bool:
        """Wait until the runtime answers; False if it died or is too slow."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.timing.runtime_start):
                while not ended.done():
                    if self._plan.control_socket.exists():
                        with contextlib.suppress(AgentError):
                            await client.status()
                            return True
                    await asyncio.wait({ended}, timeout=_POLL_SECONDS)
        return False

    async def _stop(self, process: Process) -> None:
        """Ask, wait, then end the whole process group."""
        if process.returncode is None:
            _signal_group(process, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._plan.timing.runtime_stop):
                    await process.wait()
        _signal_group(process, signal.SIGKILL)
        await process.wait()


def _signal_group(process: Process, number: int) -> None:
    # The group outlives its leader if the runtime started something of its own.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
