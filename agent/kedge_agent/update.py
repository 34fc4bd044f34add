# SPDX-License-Identifier: Apache-2.0
"""One try at making an order the current generation.

    PREPARING -> READY_TO_UPDATE -> APPLYING_UPDATE -> ACTIVATING -> VERIFYING ->
    UPDATED
        |              |                  |                |            |
        +--------------+------------------+                +------------+-> ROLLING_BACK
                       |                                                         |
             FAILED_NO_STATE_CHANGE                          FAILED_ROLLBACK_COMPLETE

Interrupted before `begin`, nothing that serves has changed. Interrupted between `begin`
and `commit`, the journal names a trial and the current generation is still the old one,
so the next start goes back. `commit` is one transaction.

Tries are counted in the journal before the runtime touches anything new: a generation
that takes the runtime, the agent or the device down, or that the device has no means
for, is given up after `MAX_ATTEMPTS`.

A runtime that was lost while it prepared, or that does not go back, is ended: what it
would serve next is not known. `left_in` says where the current generation serves then.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from kedge_agent.disk import DiskThread, Store
from kedge_agent.errors import (
    AgentError,
    DiskFullError,
    LocalError,
    NetworkError,
    RuntimeLostError,
    RuntimeRefusedError,
    StateError,
)
from kedge_agent.fetch.base import Blob, Fetcher
from kedge_agent.journal import Journal
from kedge_agent.reports import failure_of
from kedge_agent.runtime_client import RuntimeClient
from kedge_agent.runtimes import RuntimeProcess
from kedge_agent.settings import Timing
from kedge_agent.trust.order import VerifiedOrder
from kedge_wire.v1.report_pb2 import Failure, Phase, Result

logger = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
"""A power cut is not a generation's fault; three interrupted tries are."""

_HEALTH_CHECKS: Final = 5
_TRANSIENT: Final = (NetworkError, DiskFullError, RuntimeLostError, StateError)
_TRANSIENT_REFUSALS: Final = frozenset(
    {
        "DATA_LOSS",  # bytes on our disk changed after they were verified
        "UNAVAILABLE",
        "RESOURCE_EXHAUSTED",  # memory, descriptors
        "UNKNOWN",  # the runtime's own trouble; what is wrong with an order has a name
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an update works with."""

    store: Store
    journal: Journal
    disk: DiskThread
    fetcher: Fetcher
    runtime: RuntimeProcess
    timing: Timing


class SupersededError(Exception):
    """Something else is wanted by now."""


class Update:
    """Moves from `current` to `order`. Made for one try; `run` it once."""

    def __init__(
        self,
        parts: Parts,
        order: VerifiedOrder,
        *,
        client: RuntimeClient,
        current: VerifiedOrder | None,
        superseded: asyncio.Event,
        entered: Callable[[Phase.ValueType], Coroutine[Any, Any, None]],
    ) -> None:
        self._parts, self._order, self._current = parts, order, current
        self._client = client
        self._superseded, self._entered = superseded, entered
        self._served = 0  # what the runtime calls the generation before
        self._phase: Phase.ValueType = Phase.PHASE_PREPARING
        self.left_in: int | None = None
        """The runtime's incarnation that serves `current` after a failure.

        0 is none of them, None the one that did before.
        """

    async def run(self) -> None:
        """Return once the order is the current generation.

        Raises:
            SupersededError: Before anything that serves was changed.
            AgentError: The try failed and the journal says how. Trying again later may
                help if the journal does not remember the content as failed.
        """
        try:
            await self._prepare()
        except AgentError as exc:
            await self._record(exc, result=Result.RESULT_FAILED_NO_STATE_CHANGE)
            if isinstance(exc, RuntimeLostError):
                self._abandon()
            else:
                await self._discard(self._order.generation)
            raise
        except SupersededError:
            await self._discard(self._order.generation)
            raise
        try:
            await self._activate()
            await self._parts.disk.run(
                self._parts.journal.commit,
                self._order.generation,
                result=Result.RESULT_SUCCESSFUL,
            )
        except AgentError as exc:
            await self._roll_back(exc)
            raise
        if self._served != self._order.generation:
            await self._discard(self._served)

    async def _prepare(self) -> None:
        await self._enter(Phase.PHASE_PREPARING)
        await self._unless_superseded(fetch_order(self._parts, self._order))
        await self._enter(Phase.PHASE_READY_TO_UPDATE)
        if self._parts.runtime.client is not self._client:
            await self._runtime_gone()
        await self._count_attempt()
        await self._enter(Phase.PHASE_APPLYING_UPDATE)
        millis = await self._client.prepare(
            self._order, cas_directory=self._parts.store.cas_directory
        )
        logger.info(
            "update.prepared: generation=%d millis=%d", self._order.generation, millis
        )
        self._served = (await self._client.status()).serving_generation
        await self._enter(Phase.PHASE_ACTIVATING)
        await self._parts.disk.run(self._parts.journal.begin, self._order.generation)

    async def _count_attempt(self) -> None:
        state = self._parts.journal.state
        content = self._order.content_digest
        if state.attempted == content and state.attempts >= MAX_ATTEMPTS:
            last = Failure.FromString(state.failure).message or "the agent's end"
            raise RuntimeRefusedError(
                f"update: expected it to finish, found {state.attempts} tries that "
                f"did not; the last one: {last}",
                element=self._order.template_version,
                component="runtime",
                status="ABORTED",
            )
        await self._parts.disk.run(self._parts.journal.attempt, content)

    async def _activate(self) -> None:
        client = self._client
        await client.activate(self._order.generation)
        await self._enter(Phase.PHASE_VERIFYING)
        window = self._parts.timing.health_window
        for _ in range(_HEALTH_CHECKS):
            await check_health(client, self._order)
            await asyncio.sleep(window / _HEALTH_CHECKS)
        await check_health(client, self._order)

    async def _roll_back(self, error: AgentError) -> None:
        """Serve the current generation again, in the old runtime or in a new one."""
        failed_phase = self._phase
        logger.warning(
            "update.rolling_back: generation=%d error=%s", self._order.generation, error
        )
        await self._enter(Phase.PHASE_ROLLING_BACK)
        result = Result.RESULT_FAILED_ROLLBACK_COMPLETE
        try:
            await self._serve_current()
        except AgentError as exc:
            logger.error("update.rollback_failed: %s", exc)  # noqa: TRY400
            result = Result.RESULT_FAILED_UNABLE_TO_ROLLBACK
        self._phase = failed_phase
        # Where it was our disk that failed, the order may be tried again.
        permanent = not isinstance(error, DiskFullError | StateError)
        await self._record(error, result=result, permanent=permanent)

    async def _serve_current(self) -> None:
        """Undo the activation; where that cannot be shown, take a new runtime."""
        runtime, client, current = self._parts.runtime, self._client, self._current
        # Otherwise what served before was not the current generation.
        known = bool(self._served) == (current is not None)
        if known and runtime.client is client:
            try:
                await client.revert(self._order.generation)
                await _check_serves(client, self._served)
            except AgentError as exc:
                logger.warning("update.revert_failed: %s", exc)
            else:
                return
        self._abandon()
        fresh = await next_client(runtime, after=client, timing=self._timing)
        incarnation = runtime.incarnation
        if current is not None:
            await load(self._parts, fresh, current)
        await _check_serves(fresh, current.generation if current else 0)
        self.left_in = incarnation

    def _abandon(self) -> None:
        """End the runtime, which may be wedged, if this update has touched it."""
        if self._phase < Phase.PHASE_APPLYING_UPDATE:
            return
        self.left_in = 0
        if self._parts.runtime.client is self._client:
            self._parts.runtime.kill()

    @property
    def _timing(self) -> Timing:
        return self._parts.timing

    async def _record(
        self, error: AgentError, *, result: Result.ValueType, permanent: bool = False
    ) -> None:
        permanent = permanent or not is_transient(error)
        failure = failure_of(error, phase=self._phase)
        # Without a record the try is repeated, which is what a full disk needs.
        try:
            await self._parts.disk.run(
                self._parts.journal.fail,
                content=self._order.content_digest if permanent else "",
                result=result,
                failure=failure.SerializeToString(),
            )
        except LocalError as exc:
            logger.warning("update.not_recorded: %s", exc)

    async def _discard(self, generation: int) -> None:
        """Free a generation that does not serve; nothing depends on it."""
        if generation:
            with contextlib.suppress(AgentError):
                await self._client.discard(generation)

    async def _enter(self, phase: Phase.ValueType) -> None:
        if phase <= Phase.PHASE_ACTIVATING:
            self._check_wanted()
        self._phase = phase
        await self._entered(phase)

    def _check_wanted(self) -> None:
        if self._superseded.is_set():
            raise SupersededError

    async def _unless_superseded(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="update-fetch")
        newer = asyncio.create_task(self._superseded.wait(), name="update-superseded")
        gone = asyncio.create_task(self._runtime_gone(), name="update-runtime-gone")
        tasks = {task, newer, gone}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if newer.done():
                raise SupersededError
            # Without a runtime nothing serves, and a download may take long.
            await (task if task.done() else gone)
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _runtime_gone(self) -> None:
        runtime = self._parts.runtime
        while runtime.client is self._client:
            await runtime.wait_change()
        raise RuntimeLostError(
            "runtime: expected the one that serves, found it gone", element="runtime"
        )


def is_transient(error: AgentError) -> bool:
    """Whether trying the same again may end differently."""
    if isinstance(error, RuntimeRefusedError):
        return error.status in _TRANSIENT_REFUSALS
    return isinstance(error, _TRANSIENT)


async def fetch_order(parts: Parts, order: VerifiedOrder) -> None:
    """Bring every artifact of `order` to the disk, verified."""
    await parts.disk.run(parts.store.reserve, order.lengths)
    for digest, length in order.lengths.items():
        await parts.fetcher.fetch(Blob(sha256=digest, length=length))


async def load(parts: Parts, client: RuntimeClient, order: VerifiedOrder) -> None:
    """Let a runtime that serves nothing yet serve `order`."""
    await client.prepare(order, cas_directory=parts.store.cas_directory)
    await client.activate(order.generation)


async def check_health(client: RuntimeClient, order: VerifiedOrder) -> None:
    """Require that `order` serves and that each of its workloads is ready.

    Raises:
        RuntimeRefusedError: It does not, or one is not.
        RuntimeLostError: The runtime does not answer.
    """
    status = await client.status()
    if status.serving_generation != order.generation:
        raise RuntimeRefusedError(
            f"runtime: expected generation {order.generation} to serve, "
            f"found {status.serving_generation}",
            element=str(order.generation),
            component="runtime",
            status="FAILED_PRECONDITION",
        )
    ready = {workload.name for workload in status.workloads if workload.ready}
    for workload in order.workloads:
        if workload.name not in ready:
            raise RuntimeRefusedError(
                f"workload {workload.name}: expected it ready, found it not ready",
                element=workload.name,
                component="runtime",
                status="FAILED_PRECONDITION",
            )


async def _check_serves(client: RuntimeClient, generation: int) -> None:
    found = (await client.status()).serving_generation
    if found != generation:
        raise RuntimeRefusedError(
            f"runtime: expected generation {generation} to serve, found {found}",
            element=str(generation),
            component="runtime",
            status="INTERNAL",
        )


async def next_client(
    runtime: RuntimeProcess, *, after: RuntimeClient, timing: Timing
) -> RuntimeClient:
    """Wait for the incarnation that follows the one of `after`."""
    try:
        async with asyncio.timeout(timing.runtime_start):
            while runtime.client is None or runtime.client is after:
                await runtime.wait_change()
            return runtime.client
    except TimeoutError as exc:
        raise RuntimeLostError(
            f"runtime: expected a new one within {timing.runtime_start:g} s, "
            "found none",
            element="runtime",
        ) from exc
