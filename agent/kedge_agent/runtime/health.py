# SPDX-License-Identifier: Apache-2.0
"""Whether a component can serve: its last verdict, asked for again and again.

A question waits in the same queue as requests, so nobody who must answer soon asks one:
they read `ready`. A component that is too busy to be asked keeps its verdict: being
busy is serving. On the event loop only; cancelling between two questions loses nothing.
"""

import asyncio
import logging
from typing import Final

from kedge_agent.components.pool import InstancePool
from kedge_agent.errors import OverloadedError, RequestError
from kedge_agent.host.log import one_line

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
"""Between two questions: a generation is kept only if it stays ready for a second."""


class Health:
    """The verdict of one component about itself; `ready` is false until it is asked."""

    def __init__(
        self, pool: InstancePool, *, workload: str, period_s: float = PERIOD_S
    ) -> None:
        self.ready = False
        self._pool: Final = pool
        self._workload: Final = workload
        self._period_s: Final = period_s

    async def ask(self) -> None:
        """Ask once, within the bounds of the pool."""
        try:
            await self._pool.health()
        except OverloadedError:
            return
        except RequestError as exc:
            reason = one_line(str(exc))
            logger.warning("workload.unhealthy: %s: %s", self._workload, reason)
            self.ready = False
        except Exception:  # the watching task's last frame
            logger.exception("workload.unhealthy: %s", self._workload)
            self.ready = False
        else:
            if not self.ready:
                logger.info("workload.healthy: %s", self._workload)
            self.ready = True

    async def watch(self) -> None:
        """Ask until cancelled."""
        while True:
            await asyncio.sleep(self._period_s)
            await self.ask()
