# SPDX-License-Identifier: Apache-2.0
"""What the runtime says that it serves, and the part of a report that this makes.

Counters change with every request and would make a report of each look at them, so they
are refreshed at an interval of their own; readiness is reported at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from kedge_agent.errors import RuntimeLostError, RuntimeRefusedError
from kedge_agent.runtimes import RuntimeProcess
from kedge_wire.v1.report_pb2 import WorkloadStatus
from kedge_wire.v1.runtime_pb2 import StatusResponse

logger = logging.getLogger(__name__)

MAX_SILENCE: Final = 3
"""Questions in a row that a runtime may leave unanswered before it is restarted."""


class Observer:
    """Asks the runtime; on the event loop only."""

    def __init__(
        self,
        runtime: RuntimeProcess,
        *,
        counters_every_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime, self._every_s = runtime, counters_every_s
        self._monotonic = monotonic
        self._silence = 0
        self._counted_at = -counters_every_s
        self._counters: dict[str, tuple[int, int]] = {}
        self.status = StatusResponse()
        self.known = asyncio.Event()  # set once a runtime has said what it offers

    async def look(self) -> None:
        """Ask once; end a runtime that has been silent too often."""
        client = self._runtime.client
        if client is None:
            self._silence = 0
            return
        try:
            self.status = await client.status()
            self._silence = 0
            self.known.set()
        except RuntimeRefusedError as exc:
            logger.warning("observe.refused: %s", exc)
        except RuntimeLostError as exc:
            self._silence += 1
            logger.warning("observe.silent: times=%d %s", self._silence, exc)
            if self._silence >= MAX_SILENCE:
                self._silence = 0
                self._runtime.kill()

    def workloads(self) -> list[WorkloadStatus]:
        """What serves; nothing is ready while there is no runtime."""
        now = self._monotonic()
        if now - self._counted_at >= self._every_s:
            self._counted_at = now
            self._counters = {
                w.name: (w.requests, w.failures) for w in self.status.workloads
            }
        statuses = []
        for seen in self.status.workloads:
            status = WorkloadStatus()
            status.CopyFrom(seen)
            status.requests, status.failures = self._counters.get(seen.name, (0, 0))
            status.ready = seen.ready and self._runtime.client is not None
            statuses.append(status)
        return statuses
