# SPDX-License-Identifier: Apache-2.0
"""Keeping the current generation in whichever runtime there is.

    to load -> loaded -> (its runtime ends) -> to load
       |  ^                                       |
       |  +-- refused or lost: back-off ----------+
       +----- CRASH_LOOP times in a row, or unusable: the previous generation is current

A series of losses is over once a runtime has held the generation for
`Timing.runtime_stable`. Without a previous generation the tries go on, with a bounded
back-off. The end of a runtime during an update is the update's fault, not the current
generation's, and `left` says so.

On the event loop only, between updates. Going back is one transaction of the journal;
interrupted anywhere, the next start reads what is current and begins again.
"""

import asyncio
import logging
from typing import Final

from kedge_agent.archive import Archive
from kedge_agent.backoff import Backoff
from kedge_agent.errors import (
    AgentError,
    LocalError,
    RuntimeLostError,
    RuntimeRefusedError,
)
from kedge_agent.reports import failure_of
from kedge_agent.runtime_client import RuntimeClient
from kedge_agent.trust.order import VerifiedOrder
from kedge_agent.update import Parts, fetch_order, is_transient, load
from kedge_wire.v1.report_pb2 import Failure, Phase, Result

logger = logging.getLogger(__name__)

CRASH_LOOP: Final = 3
"""Runtimes in a row that the current generation may end."""

_UNREADABLE: Final = frozenset({"DATA_LOSS", "UNAVAILABLE"})
"""What the runtime says of artifacts that are not, or no longer, what was signed."""


class Restorer:
    """Owns what is current, and knows which runtime serves it."""

    def __init__(self, parts: Parts, archive: Archive) -> None:
        timing = parts.timing
        self._parts, self._archive = parts, archive
        self.current: VerifiedOrder | None = None
        self.trouble: Failure | None = None  # of the last try, until one succeeds
        self._loaded_in = 0  # the runtime's incarnation that serves `current`
        self._loaded_at = 0.0
        self._losses = 0
        self._retry = Backoff(first_s=timing.retry_min, longest_s=timing.retry_max)
        self._retry_at = 0.0

    def encourage(self) -> None:
        """Something is new: try again now."""
        self._retry.reset()
        self._retry_at = 0.0

    def became(self, order: VerifiedOrder, *, incarnation: int) -> None:
        """An update has made `order` current in that runtime."""
        self.current, self._losses = order, 0
        self._loaded(incarnation)

    def left(self, incarnation: int) -> None:
        """A failed update left `current` in that runtime, or, with 0, in none."""
        if incarnation:
            self._loaded(incarnation)
        self._loaded_in = incarnation

    async def restore(self, *, update_due: bool) -> bool:
        """Give a runtime that has started what is current; return whether it was done.

        Failing to is told by `trouble`, not raised: a newer order may be the cure. With
        `update_due`, one waits, and nothing is repaired that it will replace.
        """
        await self._count_loss()
        before = self._loaded_in
        while await self._try(update_due=update_due):
            pass  # something was put right, so that the next try may end differently
        return self._loaded_in != before

    async def _count_loss(self) -> None:
        runtime, current = self._parts.runtime, self.current
        alive = runtime.client is not None and runtime.incarnation == self._loaded_in
        if alive or not self._loaded_in:
            return
        self._loaded_in = 0
        if current is None:
            return
        lived = _monotonic() - self._loaded_at
        stable = lived >= self._parts.timing.runtime_stable
        self._losses = 1 if stable else self._losses + 1
        logger.warning(
            "restore.lost: generation=%d times=%d", current.generation, self._losses
        )
        if self._losses >= CRASH_LOOP:
            error = RuntimeLostError(
                f"runtime: expected generation {current.generation} to serve, found "
                f"the end of {self._losses} runtimes in a row",
                element="runtime",
            )
            self.trouble = failure_of(error, phase=Phase.PHASE_ACTIVATING)
            await self._fall_back(current, error, again=False)

    async def _try(self, *, update_due: bool) -> bool:
        """Load `current` where it is missing; return whether to try again at once."""
        runtime, current = self._parts.runtime, self.current
        client, incarnation = runtime.client, runtime.incarnation
        if client is None or self._loaded_in == incarnation:
            return False
        if current is None:
            self._loaded(incarnation)
            return False
        given_up = update_due and self._losses >= CRASH_LOOP
        if given_up or _monotonic() < self._retry_at:
            return False
        try:
            await load(self._parts, client, current)
        except AgentError as exc:
            return await self._on_failure(client, current, exc, update_due=update_due)
        logger.info("restored: generation=%d", current.generation)
        self._loaded(incarnation)
        return False

    async def _on_failure(
        self,
        client: RuntimeClient,
        current: VerifiedOrder,
        error: AgentError,
        *,
        update_due: bool,
    ) -> bool:
        logger.warning("restore.failed: generation=%d %s", current.generation, error)
        runtime = self._parts.runtime
        self.trouble = failure_of(error, phase=Phase.PHASE_ACTIVATING)
        self._retry_at = _monotonic() + self._retry.next_s()
        self._losses += 1
        if isinstance(error, RuntimeLostError) and runtime.client is client:
            runtime.kill()  # its loader may hang
        again = isinstance(error, RuntimeRefusedError) and is_transient(error)
        if isinstance(error, RuntimeRefusedError) and error.status in _UNREADABLE:
            failed = None if update_due else await self._repair(current)
            if failed is None and not update_due and self._losses < CRASH_LOOP:
                self._retry_at = 0.0
                return True
            again = failed is None or is_transient(failed)
        elif is_transient(error) and self._losses < CRASH_LOOP:
            return False
        return await self._fall_back(current, error, again=again)

    async def _repair(self, current: VerifiedOrder) -> AgentError | None:
        """Hash every artifact, remove what is wrong, fetch it again."""
        try:
            await fetch_order(self._parts, current)
        except AgentError as exc:
            logger.warning("restore.not_repaired: %s", exc)
            self.trouble = failure_of(exc, phase=Phase.PHASE_PREPARING)
            return exc
        return None

    async def _fall_back(
        self, current: VerifiedOrder, error: AgentError, *, again: bool
    ) -> bool:
        """Make the previous generation current, if there is one that is whole.

        With `again`, an update may bring `current` back: it was not at fault.
        """
        parts = self._parts
        if not current.workloads:  # a runtime without workloads ends by itself
            return False
        try:
            previous = await self._archive.read(
                parts.journal.state.previous, whole=True
            )
            if previous is None:
                return False
            await parts.disk.run(parts.journal.fall_back)
            logger.error(
                "restore.fall_back: from=%d to=%d",
                current.generation,
                previous.generation,
            )
            self.current, self.trouble = previous, None
            self._losses, self._retry_at = 0, 0.0
            if not again:
                await parts.disk.run(
                    parts.journal.fail,
                    content=current.content_digest,
                    result=Result.RESULT_FAILED_ROLLBACK_COMPLETE,
                    failure=failure_of(
                        error, phase=Phase.PHASE_ACTIVATING
                    ).SerializeToString(),
                )
        except LocalError as exc:
            logger.warning("restore.not_recorded: %s", exc)
        return self.current is not current

    def _loaded(self, incarnation: int) -> None:
        self._loaded_in, self._loaded_at = incarnation, _monotonic()
        self.trouble = None
        self.encourage()


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
