# SPDX-License-Identifier: Apache-2.0
"""The one task that writes: works wait in a queue and are committed in groups.

    submit ──▶ bounded queue ──▶ BEGIN · each work in a SAVEPOINT · revision · COMMIT
                                                                │
                                                       events, answers

A work that raises is rolled back alone. A database that fails takes its whole group:
every caller gets UnavailableError and nothing of the group happened. A caller that gave
up before its work began is skipped; later it is committed all the same.
resourceVersions are in commit order because a group holds the write lock from its first
statement to COMMIT. A process that dies between COMMIT and the events loses nothing:
the event log is not older than the process.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import update
from sqlalchemy.exc import (
    InterfaceError,
    InternalError,
    OperationalError,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kedge_controlplane.errors import TooManyRequestsError, UnavailableError
from kedge_controlplane.store.reading import read_revision
from kedge_controlplane.store.tables import REVISION
from kedge_controlplane.store.transaction import Transaction
from kedge_controlplane.store.watch import Event, EventLog

logger = logging.getLogger(__name__)

R = TypeVar("R")
Work = Callable[[Transaction], Awaitable[R]]

QUEUE_LIMIT: Final = 1024  # works; more would only wait longer than callers do
GROUP_LIMIT: Final = (
    64  # works; shares one fsync, and bounds what one failure takes along
)
WORK_LIMIT_S: Final = 10.0  # everybody else waits for a work
DRAIN_S: Final = 30.0

_within_work: ContextVar[bool] = ContextVar("within_work", default=False)


@dataclass(slots=True, kw_only=True)
class _Job:
    work: Work[Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    events: list[Event[Any]] = field(default_factory=list)

    def resolve(self) -> None:
        if self.answer.done():
            return
        if self.error is not None:
            self.answer.set_exception(self.error)
        else:
            self.answer.set_result(self.result)


class Writer:
    """Owns the writing engine's one connection and the task that uses it."""

    def __init__(
        self,
        engine: AsyncEngine,
        log: EventLog,
        *,
        clock: Callable[[], datetime],
        work_limit_s: float = WORK_LIMIT_S,
    ) -> None:
        self._engine = engine
        self._log = log
        self._clock = clock
        self._work_limit_s = work_limit_s
        self._queue: asyncio.Queue[_Job | None] = asyncio.Queue(QUEUE_LIMIT + 1)
        self._closed = False
        self._task = asyncio.create_task(self._run(), name="store.writer")

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._closed or self._task.done()

    async def submit(self, work: Work[R]) -> R:
        """Run `work` in a transaction and return its result once that is durable."""
        if _within_work.get():
            raise RuntimeError(
                "a work may not wait for another write: use its transaction"
            )
        if self.closed:
            raise UnavailableError("the store is closed")
        if self._queue.qsize() >= QUEUE_LIMIT:
            raise TooManyRequestsError(
                f"{QUEUE_LIMIT} writes are waiting already", retry_after_s=1
            )
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Job(work=work, answer=answer))
        return await answer

    async def close(self) -> None:
        """Commit what is queued, then stop; bounded in time."""
        if not self._closed:
            self._closed = True
            self._queue.put_nowait(None)
        if self._task.done():
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._task
        except TimeoutError:
            logger.warning("writer stopped with works in its queue")

    async def _run(self) -> None:
        try:
            while jobs := await self._gather():
                await self._commit(jobs)
        finally:
            self._closed = True
            while not self._queue.empty():
                job = self._queue.get_nowait()
                if job is not None:
                    job.error = UnavailableError("the store is closed")
                    job.resolve()

    async def _gather(self) -> list[_Job]:
        """Wait for a work and take what came with it; empty means stop."""
        jobs: list[_Job] = []
        while len(jobs) < GROUP_LIMIT and not (jobs and self._queue.empty()):
            job = await self._queue.get()
            if job is None:
                if jobs:
                    self._queue.put_nowait(None)  # stop at the next turn
                break
            if not job.answer.done():
                jobs.append(job)
        return jobs

    async def _commit(self, jobs: Sequence[_Job]) -> None:
        committed = False
        try:
            async with self._engine.begin() as connection:
                before = revision = await read_revision(connection)
                for job in jobs:
                    await self._attempt(connection, job, revision)
                    revision += len(job.events)
                if revision != before:
                    await connection.execute(update(REVISION).values(value=revision))
            committed = True
        except Exception:  # without this task nothing is ever written again
            logger.exception("commit failed works=%d", len(jobs))
        finally:  # by cancellation, too: nobody waits for ever
            self._settle(jobs, committed=committed)

    def _settle(self, jobs: Sequence[_Job], *, committed: bool) -> None:
        for job in jobs:
            if committed:
                self._log.publish(job.events)
            else:
                job.error = UnavailableError(
                    "the database did not commit the write", retry_after_s=1
                )
        for job in jobs:
            job.resolve()

    async def _attempt(
        self, connection: AsyncConnection, job: _Job, revision: int
    ) -> None:
        """Run one work in a savepoint and record its outcome in the job."""
        transaction = Transaction(connection, revision=revision, clock=self._clock)
        savepoint = await connection.begin_nested()
        task = asyncio.create_task(_inside(job.work, transaction), name="store.work")
        try:
            await asyncio.wait({task}, timeout=self._work_limit_s)
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        finally:
            task.cancel()  # does nothing to a finished task
        if task.cancelled():
            job.error = UnavailableError(
                f"the write took longer than {self._work_limit_s:g} s"
            )
        else:
            job.error = task.exception()
        if isinstance(job.error, OperationalError | InternalError | InterfaceError):
            raise job.error  # the transaction itself may be gone
        if job.error is not None:
            await savepoint.rollback()
            return
        await savepoint.commit()
        job.result, job.events = task.result(), transaction.events


async def _inside(work: Work[R], transaction: Transaction) -> R:
    _within_work.set(True)
    return await work(transaction)
