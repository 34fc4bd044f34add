# SPDX-License-Identifier: Apache-2.0
"""Closes what no generation holds any more, while the rest goes on.

A triple is closed when the last request inside has its answer, which may take as long
as a request may. Whoever swaps does not wait for that, and cannot interrupt it: each
triple has a task here, owned until it is done. On the event loop only.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from kedge_agent.runtime.triple import Triple

logger = logging.getLogger(__name__)


class Reaper:
    """Owns triples from `reap` until they are closed."""

    def __init__(self) -> None:
        self._closing: Final[set[asyncio.Task[None]]] = set()

    def reap(self, triples: Iterable[Triple]) -> None:
        """Close them as soon as they are idle; returns at once."""
        for triple in triples:
            name = f"reap-{triple.workload.name}"
            task = asyncio.create_task(_close(triple), name=name)
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def done(self) -> None:
        """Wait until everything handed over so far is closed."""
        if self._closing:
            await asyncio.wait(set(self._closing))


async def _close(triple: Triple) -> None:
    try:
        await triple.close()
    except Exception:  # the task's last frame; nobody else would hear of it
        logger.exception("triple.not_closed: %s", triple.workload.name)
