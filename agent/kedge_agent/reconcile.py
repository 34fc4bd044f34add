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
    RefusedOrderError,
)
from kedge_agent.journal import JournalState
from kedge_agent.observation import Observer
from kedge_agent.reports import Outbox, failure_of
from kedge_agent.restore import Restorer
from kedge_agent.trust.order import Floor, VerifiedOrder
from kedge_agent.trust.verifier import Verifier, claimed_generation
from kedge_agent.update import (
    Parts,
    SupersededError,
    Update,
    is_transient,
)
from kedge_wire.v1.order_pb2 import Envelope
from kedge_wire.v1.report_pb2 import Failure, Phase, Report, Result

logger = logging.getLogger(__name__)

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
        self._restorer = Restorer(parts, self._archive)
        self._desired: VerifiedOrder | None = None
        self._updating: VerifiedOrder | None = None
        self._phase: Phase.ValueType = Phase.PHASE_UNSPECIFIED
        self._refused: tuple[int, Failure] | None = None
        self._delay: Failure | None = None  # of an update that will be tried again
        self._retry = Backoff(first_s=timing.retry_min, longest_s=timing.retry_max)
        self._retry_at = 0.0

    @property
    def held_generation(self) -> int:
        """Of the newest order that we hold; the control plane sends what is newer."""
        return self._desired.generation if self._desired else 0

    @property
    def serves(self) -> bool:
        """Whether there is something that a new runtime will be given to serve."""
        current = self._restorer.current
        return current is not None and bool(current.workloads)

    def wake(self) -> None:
        """Look again now."""
        self._wake.set()

    async def recover(self) -> None:
        """Find out what is current after a stop of any kind."""
        journal, disk = self._parts.journal, self._parts.disk
        if journal.state.trial:
            logger.warning("recover.trial_ended: generation=%d", journal.state.trial)
            await disk.run(journal.forget_trial)
        restorer = self._restorer
        while restorer.current is None and journal.state.current:
            current = journal.state.current
            restorer.current = await self._archive.read(current, whole=True)
            if restorer.current is None:
                logger.error("recover.unusable: generation=%d", current)
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
        except LocalError as exc:
            # Our own trouble, such as a full disk, is no verdict about the order.
            logger.warning("order.postponed: %s", exc)
            self._refused = (0, failure_of(exc, phase=Phase.PHASE_UNSPECIFIED))
        except AgentError as exc:
            logger.warning("order.refused: %s", exc)
            self._refuse(envelope, exc)
        except Exception as exc:  # whatever comes from outside, the agent goes on
            logger.exception("order.unforeseen")
            self._refuse(envelope, _unforeseen(exc))
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

    def _refuse(self, envelope: Envelope, error: AgentError) -> None:
        failure = failure_of(error, phase=Phase.PHASE_UNSPECIFIED)
        self._refused = (claimed_generation(envelope), failure)

    async def _accept(self, order: VerifiedOrder) -> None:
        await self._archive.accept(self._parts.journal, order)
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
        self._restorer.encourage()
        updating = self._updating
        if updating is None or updating.content_digest != order.content_digest:
            self._superseded.set()

    async def _pass(self) -> None:
        wanted = self._desired
        if not self.observer.known.is_set():
            await self.observer.look()  # loading may take long, and Hello waits
        try:
            if await self._restorer.restore(update_due=self._is_due()):
                await self.observer.look()  # an update may take long
            await self._advance()
        except SupersededError:
            logger.info("update.superseded")
            self.wake()
        except AgentError as exc:
            logger.warning("reconcile.failed: %s", exc)
            self._note_failure(exc, wanted)
        except Exception as exc:  # the throttle: a bug must not end what serves
            logger.exception("reconcile.unforeseen")
            self._note_failure(_unforeseen(exc), wanted)
        await self.observer.look()
        await self._publish()

    def _note_failure(self, error: AgentError, wanted: VerifiedOrder | None) -> None:
        """Tell what ended the update towards `wanted` from what only delays it.

        A network that is away, or a disk that is full, may heal by itself: the update
        goes on, and a rollout's patience decides when that is too long. All else needs
        a person.
        """
        desired = self._desired
        if desired is not wanted:  # it is not the newer order's failure
            self.wake()
            return
        self._retry_at = _monotonic() + self._retry.next_s()
        failed = self._parts.journal.state.failed
        given_up = desired is not None and desired.content_digest == failed
        transient = is_transient(error) and not given_up
        self._phase = Phase.PHASE_PREPARING if transient else Phase.PHASE_ERROR
        # What was given up has its failure in the journal.
        self._delay = None if given_up else failure_of(error, phase=self._phase)

    async def _advance(self) -> None:
        order = self._desired
        if order is None:
            return
        if self._is_running(order):
            await self._adopt(order)
        elif order.content_digest == self._parts.journal.state.failed:
            self._phase = Phase.PHASE_ERROR
        elif self._is_expired(order):
            self._refuse_expired(order)
        elif self._parts.runtime.client and self._is_due():
            await self._update(order)

    def _is_due(self) -> bool:
        """Whether an update is wanted, may be tried, and may be tried now."""
        order, failed = self._desired, self._parts.journal.state.failed
        return (
            order is not None
            and not self._is_running(order)
            and order.content_digest != failed
            and not self._is_expired(order)
            and _monotonic() >= self._retry_at
        )

    def _is_running(self, order: VerifiedOrder) -> bool:
        current = self._restorer.current
        return (
            current is not None and current.workloads_digest == order.workloads_digest
        )

    async def _adopt(self, order: VerifiedOrder) -> None:
        """The same workloads under a newer order: nothing to load, nothing to risk."""
        parts = self._parts
        if parts.journal.state.current != order.generation:
            await parts.disk.run(
                parts.journal.adopt,
                order.generation,
                result=Result.RESULT_SUCCESSFUL,
            )
            self._restorer.current = order
            await self._collect()
        self._phase, self._delay = Phase.PHASE_UPDATED, None

    async def _update(self, order: VerifiedOrder) -> None:
        runtime = self._parts.runtime
        if runtime.client is None:
            return
        incarnation = runtime.incarnation
        self._superseded.clear()
        self._updating = order
        update = Update(
            self._parts,
            order,
            client=runtime.client,
            current=self._restorer.current,
            superseded=self._superseded,
            entered=self._enter,
        )
        try:
            await update.run()
        except AgentError:
            if update.left_in is not None:
                self._restorer.left(update.left_in)
            raise
        finally:
            self._updating = None
        self._restorer.became(order, incarnation=incarnation)
        self._phase, self._delay = Phase.PHASE_UPDATED, None
        self._retry.reset()
        await self._collect()
        if self._desired is not order:
            self.wake()

    def _is_expired(self, order: VerifiedOrder) -> bool:
        return order.expires.timestamp() <= max(
            self._clock().timestamp(), self._parts.journal.state.clock_floor
        )

    def _refuse_expired(self, order: VerifiedOrder) -> None:
        """It was accepted in time, and could not be started in time."""
        expired = RefusedOrderError(
            f"order {order.generation}: expected it to be started before it expired, "
            f"found its expiry {order.expires.isoformat()} passed",
            element="expires",
        )
        failure = failure_of(expired, phase=Phase.PHASE_PREPARING)
        self._refused = (order.generation, failure)
        self._phase = Phase.PHASE_ERROR

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
        state, current = self._parts.journal.state, self._restorer.current
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
        failure = self._restorer.trouble or self._delay
        # While an update is under way, the last result is about something else.
        if report.phase in _SETTLED:
            report.result = Result.ValueType(state.result)
            if failure is None and state.failure:
                failure = Failure.FromString(state.failure)
        if self._refused is not None:
            report.refused_generation, failure = self._refused
        if failure is not None:
            report.failure.CopyFrom(failure)
        return report

    def _reported_phase(self) -> Phase.ValueType:
        order, current = self._desired, self._restorer.current
        pending = (
            order is not None
            and (current is None or current.generation != order.generation)
            and order.content_digest != self._parts.journal.state.failed
            and self._phase != Phase.PHASE_ERROR
        )
        if pending and self._phase in _SETTLED:
            return Phase.PHASE_PREPARING
        if self._restorer.trouble is not None and not pending:
            return Phase.PHASE_ERROR
        return self._phase

    async def _collect(self) -> None:
        """Remove what neither the current, the previous nor the wanted order needs."""
        removed = await self._archive.collect(
            self._parts.journal,
            held=[o for o in (self._restorer.current, self._desired) if o is not None],
        )
        if removed:
            logger.info("disk.collected: files=%d", removed)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


def _unforeseen(error: Exception) -> AgentError:
    return AgentError(f"agent: expected no {type(error).__name__}, found {error}")


def _floor(state: JournalState) -> Floor:
    clock = state.clock_floor
    return Floor(
        generation=state.floor,
        digest=state.floor_digest,
        clock=datetime.fromtimestamp(clock, UTC) if clock else None,
    )
