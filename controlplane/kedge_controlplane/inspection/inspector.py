# SPDX-License-Identifier: Apache-2.0
"""Looks into hostile bytes in a process of their own.

A WebAssembly component is compiled and partly run, a schema's patterns are matched, a
model is parsed: each can take for ever, take all memory, or find a fault in a native
library. So every inspection is one short-lived child process with limits on time and
memory, fed through a pipe; whatever becomes of it, the control plane lives and the
answer is a report. At most `parallel` run at once; others wait, and are told to come
again when that takes too long. An inspection that is cancelled or interrupted leaves
nothing: the child is killed and had written nowhere.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from kedge_controlplane.errors import TooManyRequestsError
from kedge_controlplane.inspection.report import MAX_REPORT_BYTES, Report, ReportError
from kedge_wire.statement import ArtifactKind

PROGRAM: Final = "kedge_controlplane.inspection"

_KEPT: Final = ("PATH", "LD_LIBRARY_PATH")
"""Of the environment: what a dynamic loader needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionLimits:
    """What one inspection may take."""

    wall_time_s: float = 60.0  # compiling 32 MiB of WebAssembly takes about 20
    queue_time_s: float = 60.0  # then the caller comes again
    cpu_time_s: int = 240  # compiling uses every core; also ends what lost its parent
    memory_bytes: int = 3 * 1024**3  # the largest model, twice, and a compiler
    parallel: int = 2


class Inspector:
    """Runs inspections; owns the processes that it starts."""

    def __init__(self, *, limits: InspectionLimits | None = None) -> None:
        self._limits = limits or InspectionLimits()
        self._slots = asyncio.Semaphore(self._limits.parallel)

    async def inspect(
        self, kind: ArtifactKind, chunks: AsyncIterator[bytes], *, schema: bytes = b""
    ) -> Report:
        """Look into an artifact of `kind`.

        Args:
            kind: What the bytes should be.
            chunks: The artifact.
            schema: For a configuration, its JSON Schema.

        Raises:
            TooManyRequestsError: Too many inspections are waiting.
        """
        try:
            async with asyncio.timeout(self._limits.queue_time_s):
                await self._slots.acquire()
        except TimeoutError as exc:
            raise TooManyRequestsError(
                "too many artifacts are being pushed: expected an inspection to begin "
                f"within {self._limits.queue_time_s:g} s",
                retry_after_s=10,
            ) from exc
        try:
            return await self._run(kind, chunks, schema)
        finally:
            self._slots.release()

    async def _run(
        self, kind: ArtifactKind, chunks: AsyncIterator[bytes], schema: bytes
    ) -> Report:
        limits = self._limits
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-B", "-m", PROGRAM, kind),
            *map(str, (limits.memory_bytes, limits.cpu_time_s, len(schema))),
            # No secret of ours is near hostile bytes.
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=MAX_REPORT_BYTES + 1,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(limits.wall_time_s):
                await _feed(child, chunks, schema)
                text = await _answer(child)
                code = await child.wait()
        except TimeoutError:
            return Report.of_problems(
                f"{kind}: inspection: expected it to end within "
                f"{limits.wall_time_s:g} s, stopped it"
            )
        finally:
            await _end(child)
        return _report(kind, text, code)


async def _feed(
    child: asyncio.subprocess.Process, chunks: AsyncIterator[bytes], schema: bytes
) -> None:
    pipe = child.stdin
    assert pipe is not None  # noqa: S101 - asked for above
    # A child that has seen enough closes its end; its answer says why.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.write(schema)
        async for chunk in chunks:
            pipe.write(chunk)
            await pipe.drain()
        pipe.close()
        await pipe.wait_closed()


async def _answer(child: asyncio.subprocess.Process) -> bytes:
    pipe = child.stdout
    assert pipe is not None  # noqa: S101 - asked for above
    text = bytearray()
    while len(text) <= MAX_REPORT_BYTES:
        part = await pipe.read(64 * 1024)
        if not part:
            break
        text += part
    return bytes(text)


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
    await child.wait()


def _report(kind: ArtifactKind, text: bytes, code: int) -> Report:
    if code != 0:
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Report.of_problems(
            f"{kind}: inspection: expected it to finish, it ended by {how}"
        )
    try:
        return Report.from_json(text)
    except ReportError as exc:
        return Report.of_problems(f"{kind}: inspection: {exc}")
