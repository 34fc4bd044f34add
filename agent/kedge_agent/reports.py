# SPDX-License-Identifier: Apache-2.0
"""What the device has to say, kept until the control plane says that it has it.

A report is the whole observed state, so only the newest is kept: it supersedes all
before it. Its number grows over restarts; the journal hands out blocks of them. On the
event loop only. After an interruption the state is observed anew and reported again.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from kedge_agent.disk import DiskThread
from kedge_agent.errors import (
    AgentError,
    DiskFullError,
    NetworkError,
    PeerDataError,
    RefusedOrderError,
    RuntimeLostError,
    RuntimeRefusedError,
    StateError,
    UntrustedError,
)
from kedge_agent.journal import Journal
from kedge_wire.v1.report_pb2 import Failure, Phase, Report

MAX_MESSAGE: Final = 2000
"""Characters of an error in a report: for people, and never a whole document."""

_COMPONENTS: Final[tuple[tuple[type[AgentError], str], ...]] = (
    (UntrustedError, "trust"),
    (RefusedOrderError, "trust"),
    (DiskFullError, "disk"),
    (StateError, "disk"),
    (NetworkError, "fetch"),
    (RuntimeLostError, "runtime"),
    (PeerDataError, "fetch"),
)


class Outbox:
    """The newest report, while it is not acknowledged."""

    def __init__(self, journal: Journal, disk: DiskThread) -> None:
        self._journal, self._disk = journal, disk
        self._numbers: Iterator[int] = iter(())
        self._content = b""
        self._changed = asyncio.Event()
        self.pending: Report | None = None

    async def put(self, content: Report, *, now_s: float) -> None:
        """Report `content`, unless it says what the last report said."""
        encoded = content.SerializeToString(deterministic=True)
        if encoded == self._content:
            return
        report = Report()
        report.CopyFrom(content)
        report.sequence = await self._next_number()
        report.time.FromNanoseconds(round(now_s * 1e9))
        self._content, self.pending = encoded, report
        self._changed.set()

    def acknowledge(self, sequence: int) -> None:
        """The control plane has committed the report with this number."""
        if self.pending is not None and self.pending.sequence <= sequence:
            self.pending = None

    async def wait(self, *, timeout_s: float) -> Report | None:
        """Wait for something new to say; afterwards, return what is unacknowledged."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()
        return self.pending

    async def _next_number(self) -> int:
        number = next(self._numbers, None)
        if number is None:
            self._numbers = iter(await self._disk.run(self._journal.reserve_sequence))
            number = next(self._numbers)
        return number


def failure_of(error: AgentError, *, phase: Phase.ValueType) -> Failure:
    """Say which part of the agent failed at what."""
    if isinstance(error, RuntimeRefusedError):
        component, code = error.component, error.status
    else:
        component = next((c for t, c in _COMPONENTS if isinstance(error, t)), "agent")
        code = error.code
    return Failure(
        phase=phase,
        component=component,
        element=_text(error.element),
        code=code,
        message=_text(str(error)),
    )


def _text(found: str) -> str:
    """What a message may hold: errors quote what we were sent."""
    return found[:MAX_MESSAGE].encode(errors="replace").decode()
