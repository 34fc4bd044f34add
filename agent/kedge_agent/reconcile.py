# SPDX-License-Identifier: Apache-2.0
"""The loop that makes the device run what its newest order says.

Level-based: each pass reads what is wanted (the order at the floor), what is current
(the journal) and what the runtime serves, does the next thing, and records it. `offer`
only stores an order and wakes the loop. One pass at a time; a pass that was cut short
anywhere is repeated from what the journal and the disk say.

    recover()  once, before anything serves: trial forgotten, current verified
    offer()    an order came: verify, seal it on disk, raise the floor, wake
    run()      passes: restore the current generation in a new runtime; update; observe
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from kedge_agent.archive import Archive
from kedge_agent.backoff import Backoff
from kedge_agent.errors import (
    AgentError,
    LocalError,
    NetworkError,
    PeerDataError,
    RefusedOrderError,
    RuntimeLostError,
    RuntimeRefusedError,
)
from kedge_agent.journal import JournalState
from kedge_agent.observation import Observer
from kedge_agent.reports import Outbox, failure_of
from kedge_agent.trust.order import Floor, VerifiedOrder
from kedge_agent.trust.verifier import Verifier, claimed_generation
from kedge_agent.update import (
    Parts,
    SupersededError,
    Update,
    fetch_order,
    is_transient,
    load,
)
from kedge_wire.v1.order_pb2 import Envelope
from kedge_wire.v1.report_pb2 import Failure, Phase, Report, Result

logger = logging.getLogger(__name__)

_HEALS: Final = (NetworkError, RuntimeLostError)

CRASH_LOOP: Final = 3
"""Runtimes in a row that the current generation may end while it is loaded."""

_SETTLED: Final = frozenset(
    {Phase.PHASE_UNSPECIFIED, Phase.PHASE_UPDATED, Phase.PHASE_ERROR}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where the Open Inference Protocol is offered."""

    http: str  # http://host:port
    grpc: str  # host:port


class Reconciler:
    """Owns the journal, the store and the decision what the runtime serves."""

    def __init__(
        self,
        parts: Parts,
        *,
        verifier: Verifier,
        outbox: Outbox,
        serving: Serving,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        timing = parts.timing
        self._parts, self._verifier, self._outbox = parts, verifier, outbox
        self._serving, self._clock = serving, clock
        self._archive = Archive(parts.store, parts.disk, verifier)
        self.observer = Observer(parts.runtime, counters_every_s=timing.status_report)
        self._wake = asyncio.Event()
        self._superseded = asyncio.Event()
        self._desired: VerifiedOrder | None = None
        self._current: VerifiedOrder | None = None
        self._updating: VerifiedOrder | None = None
        self._phase: Phase.ValueType = Phase.PHASE_UNSPECIFIED
        self._refused: tuple[int, Failure] | None = None
        self._trouble: Failure | None = None  # of restoring the current generation
        self._delay: Failure | None = None  # of an update that will be tried again
        self._loaded_in = 0  # the runtime's incarnation that serves `_current`
        self._losses = 0
        self._retry = Backoff(first_s=timing.retry_min, longest_s=timing.retry_max)
        self._retry_at = 0.0

    @property
    def held_generation(self) -> int:
        """Of the newest order that we hold; the control plane sends what is newer."""
        return self._desired.generation if self._desired else 0

    @property
    def serves(self) -> bool:
        """Whether there is something that a new runtime will be given to serve."""
        return self._current is not None and bool(self._current.workloads)

    def wake(self) -> None:
        """Look again now."""
        self._wake.set()

    async def recover(self) -> None:
        """Find out what is current after a stop of any kind."""
        journal, disk = self._parts.journal, self._parts.disk
        if journal.state.trial:
            logger.warning("recover.trial_ended: generation=%d", journal.state.trial)
            await disk.run(journal.forget_trial)
        while self._current is None and journal.state.current:
            self._current = await self._archive.read(journal.state.current, whole=True)
            if self._current is None:
                logger.error("recover.unusable: generation=%d", journal.state.current)
                await disk.run(journal.fall_back)
        self._desired = await self._archive.read(journal.state.floor)
        await self._collect()

    async def offer(self, envelope: Envelope) -> None:
        """Take an order, or remember why not."""
        try:
            order = self._verifier.verify_order(
                envelope, floor=_floor(self._parts.journal.state), now=self._clock()
            )
            if self.held_generation != order.generation:
                await self._accept(order)
        except AgentError as exc:
            logger.warning("order.refused: %s", exc)
            failure = failure_of(exc, phase=Phase.PHASE_UNSPECIFIED)
            # Our own trouble, such as a full disk, is no verdict about the order.
            at_fault = isinstance(exc, PeerDataError)
            refused = claimed_generation(envelope) if at_fault else 0
            self._refused = (refused, failure)
        else:
            self._refused = None
        self.wake()

    async def run(self) -> None:
        """Make passes until cancelled."""
        while True:
            self._wake.clear()
            await self._pass()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._parts.timing.status_poll):
                    await self._wake.wait()

    async def _accept(self, order: VerifiedOrder) -> None:
        parts = self._parts
        # The bytes come first: a floor without its order could not be worked towards.
        await parts.disk.run(
            parts.store.put_generation, order.generation, order.envelope
        )
        await parts.disk.run(
            parts.journal.accept,
            order.generation,
            digest=order.digest,
            clock=order.issued.timestamp(),
        )
        logger.info(
            "order.accepted: generation=%d template_version=%s",
            order.generation,
            order.template_version,
        )
        self._desired, self._delay = order, None
        if self._updating is None:
            self._phase = Phase.PHASE_PREPARING
        self._retry_at = 0.0
        self._retry.reset()
        updating = self._updating
        if updating is None or updating.content_digest != order.content_digest:
            self._superseded.set()

    async def _pass(self) -> None:
        wanted = self._desired
        if not self.observer.known.is_set():
            await self.observer.look()  # loading may take long, and Hello waits
        try:
            await self._restore()
            await self._advance()
        except SupersededError:
            logger.info("update.superseded")
            self.wake()
        except AgentError as exc:
            logger.warning("reconcile.failed: %s", exc)
            if self._desired is wanted:
                self._note_failure(exc)
                self._retry_at = _monotonic() + self._retry.next_s()
            else:  # it is not the newer order's failure
                self.wake()
        await self.observer.look()
        await self._publish()

    def _note_failure(self, error: AgentError) -> None:
        """Tell what ended the update from what only delays it.

        A network that is away heals by itself: the update goes on, and a rollout's
        patience decides when that is too long. All else needs a person.
        """
        desired, failed = self._desired, self._parts.journal.state.failed
        given_up = desired is not None and desired.content_digest == failed
        if isinstance(error, _HEALS) and not given_up:
            self._phase = Phase.PHASE_PREPARING
            self._delay = failure_of(error, phase=Phase.PHASE_PREPARING)
        else:
            self._phase = Phase.PHASE_ERROR
            self._delay = None

    async def _restore(self) -> None:
        """Give a runtime that has just started what is current.

        Failing to is not the end of the pass: a newer order may be the cure.
        """
        runtime, current = self._parts.runtime, self._current
        client, incarnation = runtime.client, runtime.incarnation
        if client is None or self._loaded_in == incarnation:
            return
        try:
            if current is not None and self._losses < CRASH_LOOP:
                await load(self._parts, client, current)
                logger.info("restored: generation=%d", current.generation)
        except RuntimeLostError as exc:
            self._losses += 1
            self._trouble = failure_of(exc, phase=Phase.PHASE_ACTIVATING)
            if self._losses >= CRASH_LOOP and current is not None:
                await self._replace(current, exc)
        except RuntimeRefusedError as exc:
            self._trouble = failure_of(exc, phase=Phase.PHASE_ACTIVATING)
            if current is not None:
                await self._replace(current, exc)
        else:
            self._loaded_in = incarnation
            if self._losses < CRASH_LOOP:
                self._trouble, self._losses = None, 0

    async def _replace(self, current: VerifiedOrder, error: AgentError) -> None:
        """The committed generation does not load any more: repair it, or go back."""
        parts, state = self._parts, self._parts.journal.state
        if isinstance(error, PeerDataError) and is_transient(error):
            await fetch_order(parts, current)  # hashes, removes, fetches again
            return
        previous = await self._archive.read(state.previous, whole=True)
        if previous is None:
            return
        logger.error(
            "restore.fall_back: from=%d to=%d", current.generation, previous.generation
        )
        failure = failure_of(error, phase=Phase.PHASE_ACTIVATING)
        await parts.disk.run(parts.journal.fall_back)
        await parts.disk.run(
            parts.journal.fail,
            content=current.content_digest,
            result=Result.RESULT_FAILED_ROLLBACK_COMPLETE,
            failure=failure.SerializeToString(),
        )
        self._current, self._losses, self._trouble = previous, 0, None
        self.wake()

    async def _advance(self) -> None:
        order, state = self._desired, self._parts.journal.state
        if order is None:
            return
        if self._current and order.workloads_digest == self._current.workloads_digest:
            await self._adopt(order)
        elif order.content_digest == state.failed:
            self._phase = Phase.PHASE_ERROR
        elif self._parts.runtime.client and _monotonic() >= self._retry_at:
            await self._update(order)

    async def _adopt(self, order: VerifiedOrder) -> None:
        """The same workloads under a newer order: nothing to load, nothing to risk."""
        parts = self._parts
        if parts.journal.state.current != order.generation:
            await parts.disk.run(
                parts.journal.commit,
                order.generation,
                result=Result.RESULT_SUCCESSFUL,
            )
            self._current = order
            await self._collect()
        self._phase = Phase.PHASE_UPDATED

    async def _update(self, order: VerifiedOrder) -> None:
        runtime = self._parts.runtime
        if self._refuse_expired(order) or runtime.client is None:
            return
        incarnation = runtime.incarnation
        self._superseded.clear()
        self._updating = order
        try:
            await Update(
                self._parts,
                order,
                client=runtime.client,
                current=self._current,
                superseded=self._superseded,
                entered=self._enter,
            ).run()
        finally:
            self._updating = None
        self._current, self._loaded_in = order, incarnation
        self._trouble, self._delay, self._losses = None, None, 0
        self._phase = Phase.PHASE_UPDATED
        self._retry.reset()
        await self._collect()
        if self._desired is not order:
            self.wake()

    def _refuse_expired(self, order: VerifiedOrder) -> bool:
        """It was accepted in time, and could not be started in time."""
        now = self._clock()
        floor = _floor(self._parts.journal.state)
        now = max(now, floor.clock) if floor.clock else now
        if order.expires > now:
            return False
        expired = RefusedOrderError(
            f"order {order.generation}: expected one that has not expired by "
            f"{now.isoformat()}, found expiry {order.expires.isoformat()}",
            element="expires",
        )
        failure = failure_of(expired, phase=Phase.PHASE_PREPARING)
        self._refused = (order.generation, failure)
        self._phase = Phase.PHASE_ERROR
        return True

    async def _enter(self, phase: Phase.ValueType) -> None:
        self._phase = phase
        await self._publish()

    async def _publish(self) -> None:
        now_s = self._clock().timestamp()
        try:
            await self._outbox.put(self._report(), now_s=now_s)
        except LocalError as exc:  # no room for the next report numbers
            logger.warning("report.postponed: %s", exc)

    def _report(self) -> Report:
        state, current = self._parts.journal.state, self._current
        report = Report(
            # The floor rises before the order is taken up; what is said here is about
            # the order that has been.
            generation=self.held_generation or state.floor,
            running_generation=current.generation if current else 0,
            running_template_version=current.template_version if current else "",
            phase=self._reported_phase(),
            workloads=self.observer.workloads(),
            serving_http=self._serving.http,
            serving_grpc=self._serving.grpc,
        )
        failure = Failure.FromString(state.failure) if state.failure else None
        # While an update is under way, the last result is about something else.
        if report.phase in _SETTLED:
            report.result = Result.ValueType(state.result)
        else:
            failure = self._delay
        failure = self._trouble or failure
        if self._refused is not None:
            report.refused_generation, failure = self._refused
        if failure is not None:
            report.failure.CopyFrom(failure)
        return report

    def _reported_phase(self) -> Phase.ValueType:
        if self._trouble is not None and self._updating is None:
            return Phase.PHASE_ERROR
        order, current = self._desired, self._current
        pending = (
            order is not None
            and (current is None or current.generation != order.generation)
            and order.content_digest != self._parts.journal.state.failed
            and self._phase != Phase.PHASE_ERROR
        )
        if pending and self._phase in _SETTLED:
            return Phase.PHASE_PREPARING
        return self._phase

    async def _collect(self) -> None:
        """Remove what neither the current, the previous nor the wanted order needs."""
        state = self._parts.journal.state
        previous = await self._archive.read(state.previous)
        kept = [o for o in (self._current, previous, self._desired) if o is not None]
        removed = await self._parts.disk.run(
            self._parts.store.collect,
            digests={digest for order in kept for digest in order.lengths},
            generations={state.current, state.previous, state.floor, state.trial},
        )
        if removed:
            logger.info("disk.collected: files=%d", removed)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


def _floor(state: JournalState) -> Floor:
    clock = state.clock_floor
    return Floor(
        generation=state.floor,
        digest=state.floor_digest,
        clock=datetime.fromtimestamp(clock, UTC) if clock else None,
    )
