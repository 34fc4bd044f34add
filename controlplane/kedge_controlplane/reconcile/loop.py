# SPDX-License-Identifier: Apache-2.0
"""The level-based loop: changes name keys, keys are reconciled, errors say what next.

    change, timer, resync ──▶ queue of keys ──▶ reconcile(key) ──▶ done, or again later
                                    ▲                 │ raises
                                    └─────────────────┤
        ConflictError    read again now ──────────────┤ a few times in a row,
        NotFoundError    the same: the object went ───┤ then the throttle
        TransientError   again after its delay ───────┤
        PermanentError   record it, wait for a change │
        anything else    the throttle ────────────────┘

A change is only ever a reason to look: what it said is not passed on. Lost changes cost
time, never correctness, because every key comes round again with the resync. The loop
keeps nothing that matters: after a restart all keys are reconciled once.
"""

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from kedge_controlplane.errors import (
    ConflictError,
    GoneError,
    NotFoundError,
    PermanentError,
    TooManyRequestsError,
    TransientError,
    UnavailableError,
)
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.reconcile.clock import Clock
from kedge_controlplane.reconcile.queue import KeyQueue
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.watch import Event, Watch

logger = logging.getLogger(__name__)

THROTTLE_S: Final = (0.2, 1.0, 5.0, 30.0, 120.0)
"""Waits after the first, second … failure of a key in a row; the last one repeats."""

DATABASE_AWAY_S: Final = 2.0
"""Wait before all keys are read again from a database that did not answer."""

FREE_CONFLICTS: Final = 5
"""Conflicts in a row that are answered by reading again at once."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Controller(ABC):
    """What one loop runs. Every method is called from the loop's own event loop."""

    name: str

    @abstractmethod
    def keys_of(self, event: Event[Resource]) -> Iterable[Key]:
        """Name what a change concerns; pure, and seeing every change in order."""

    @abstractmethod
    async def all_keys(self) -> Iterable[Key]:
        """Name every object there is, and every one that is gone but left something."""

    @abstractmethod
    async def reconcile(self, key: Key) -> timedelta | None:
        """Read everything about `key`, decide, write; idempotent.

        Returns:
            When to look again though nothing changed; None: no need.

        Raises:
            PermanentError: Only a change of the object helps.
            TransientError: Try again after its delay.
            ConflictError: An object changed since it was read.
        """

    @abstractmethod
    async def record(self, key: Key, error: PermanentError) -> None:
        """Make `error` visible on the object."""


class Loop:
    """Runs one controller. `run` owns every task of it."""

    def __init__(
        self,
        controller: Controller,
        *,
        store: Store,
        clock: Clock,
        parallel: int = 4,
        resync: timedelta = timedelta(minutes=5),
    ) -> None:
        self._controller = controller
        self._store = store
        self._clock = clock
        self._resync_s = resync.total_seconds()
        self._failures: dict[Key, int] = {}
        self._queue: KeyQueue[Key] = KeyQueue(
            name=controller.name, handle=self._handle, clock=clock, parallel=parallel
        )

    def add(self, key: Key) -> None:
        """Have `key` reconciled soon, for a reason that the store does not know."""
        self._queue.add(key)

    async def settled(self) -> None:
        """Wait until no key is queued or being reconciled."""
        await self._queue.settled()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        name = self._controller.name
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.run(), name=f"{name}-queue")
            tasks.create_task(self._watch(), name=f"{name}-watch")
            tasks.create_task(self._resync(), name=f"{name}-resync")

    async def _watch(self) -> None:
        while True:
            watch: Watch[Resource] = self._store.watch()
            try:
                await self._follow(watch)
            except GoneError:
                logger.info("%s: missed changes, reading all", self._controller.name)
            else:
                return  # the store is closed
            finally:
                watch.close()

    async def _follow(self, watch: Watch[Resource]) -> None:
        await self._add_all()
        async for event in watch:
            for key in self._controller.keys_of(event):
                self._queue.add(key)

    async def _resync(self) -> None:
        while True:
            await self._clock.sleep(self._resync_s)
            await self._add_all()

    async def _add_all(self) -> None:
        """Queue every key; while the database is away, wait for it."""
        while True:
            try:
                keys = await self._controller.all_keys()
            except UnavailableError as error:
                logger.warning("%s: %s", self._controller.name, error)
                await self._clock.sleep(_jittered(DATABASE_AWAY_S))
            else:
                break
        for key in keys:
            self._queue.add(key)

    async def _handle(self, key: Key) -> None:
        try:
            again = await self._controller.reconcile(key)
        except (ConflictError, NotFoundError):
            self._retry_conflict(key)
        except TransientError as error:
            logger.info("%s %s: %s", self._controller.name, key, error)
            self._failures.pop(key, None)
            self._queue.add_after(key, _jittered(error.delay_s))
        except (TooManyRequestsError, UnavailableError) as error:
            logger.warning("%s %s: %s", self._controller.name, key, error)
            self._throttle(key)
        except PermanentError as error:
            await self._record(key, error)
        except Exception:  # the one throttle: a bug must not stop the other keys
            logger.exception("%s %s: failed", self._controller.name, key)
            self._throttle(key)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self._queue.add_after(key, max(0.0, again.total_seconds()))

    async def _record(self, key: Key, error: PermanentError) -> None:
        logger.info("%s %s: %s", self._controller.name, key, error)
        self._failures.pop(key, None)
        try:
            await self._controller.record(key, error)
        except (ConflictError, NotFoundError):
            self._retry_conflict(key)
        except Exception:  # as above
            logger.exception("%s %s: recording failed", self._controller.name, key)
            self._throttle(key)

    def _retry_conflict(self, key: Key) -> None:
        if self._failures.get(key, 0) >= FREE_CONFLICTS:
            self._throttle(key)
            return
        self._failures[key] = self._failures.get(key, 0) + 1
        self._queue.add(key)

    def _throttle(self, key: Key) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay_s = THROTTLE_S[min(failures, len(THROTTLE_S) - 1)]
        self._queue.add_after(key, _jittered(delay_s))


def _jittered(delay_s: float) -> float:
    return delay_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing
