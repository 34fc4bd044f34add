# SPDX-License-Identifier: Apache-2.0
"""When each device was last heard of: in memory at once, in the table soon after.

A beat never becomes an object write. Killed, the table is a few seconds old. Time
during which this process did not listen says nothing about devices, so right after a
start nothing can be said of a device that the table knows: until it is heard of, or the
time that makes a device Offline has passed.

A device that was seen to end its session and opens no other is away after a short
grace. Only what this process saw itself says so, and a restart forgets it.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from kedge_controlplane.errors import TooManyRequestsError, UnavailableError
from kedge_controlplane.reconcile.clock import Clock
from kedge_controlplane.reconcile.loop import Key
from kedge_controlplane.store import leases
from kedge_controlplane.store.store import Store

logger = logging.getLogger(__name__)

RECONNECT_WITHIN: Final = timedelta(seconds=5)
"""How long after the end of its session a device is not yet called away."""


class LeaseBook:
    """Used from one event loop; `run` flushes and says whose freshness changed."""

    def __init__(
        self, *, store: Store, clock: Clock, offline_after: timedelta, every: timedelta
    ) -> None:
        self._store = store
        self._clock = clock
        self._offline_after = offline_after
        self._every_s = every.total_seconds()
        self._seen: dict[Key, datetime] = {}
        self._unsaved: dict[Key, datetime] = {}
        self._left: dict[Key, datetime] = {}  # whose sessions were seen to end
        self._unheard: set[Key] = set()  # of those that the table knew at the start
        self._was_fresh: set[Key] = set()
        self._started = clock.now()

    async def load(self) -> None:
        """Read the table; before anything else is called."""
        stored = await leases.all_seen(self._store)
        self._seen = {Key(*device): moment for device, moment in stored.items()}
        self._left = {}
        self._unheard = set(self._seen)
        self._was_fresh = set(self._seen)
        self._started = self._clock.now()

    def renew(self, device: Key) -> None:
        """Note that the device was heard of."""
        self._seen[device] = self._unsaved[device] = self._clock.now()
        self._left.pop(device, None)
        self._unheard.discard(device)

    def leave(self, device: Key) -> None:
        """Note that the device, not this side, ended its session."""
        self._left[device] = self._clock.now()

    def forget(self, device: Key) -> None:
        """The device is gone for good."""
        for book in (self._seen, self._unsaved, self._left):
            book.pop(device, None)
        self._unheard.discard(device)
        self._was_fresh.discard(device)

    def last_seen(self, device: Key) -> datetime | None:
        return self._seen.get(device)

    def fresh(self, device: Key) -> bool | None:
        """Say whether the device was heard of recently; None: it is too early to say.

        It is too early right after the start, for devices that the table knows.
        """
        now, seen = self._clock.now(), self._seen.get(device)
        if seen is None:
            return False
        if self.closed(device):
            return False
        if device in self._unheard:
            return None if now - self._started < self._offline_after else False
        return now - seen < self._offline_after

    def closed(self, device: Key) -> bool:
        """Say whether the device ended its session and did not come back in time."""
        left = self._left.get(device)
        return left is not None and self._clock.now() - left >= RECONNECT_WITHIN

    async def run(self, changed: Callable[[Key], None]) -> None:
        """Flush until cancelled; call `changed` for devices that came or went."""
        while True:
            await self._clock.sleep(self._every_s)
            for device in self._turned():
                changed(device)
            await self.flush()

    async def flush(self) -> None:
        """Write what is not in the table yet; a failure keeps it for the next time."""
        unsaved, self._unsaved = self._unsaved, {}
        if not unsaved:
            return
        rows = {(key.namespace, key.name): seen for key, seen in unsaved.items()}
        try:
            await self._store.write(lambda tx: leases.renew(tx, rows))
        except (TooManyRequestsError, UnavailableError) as error:
            logger.warning("leases not saved: %s", error)
            self._unsaved = unsaved | self._unsaved

    def _turned(self) -> list[Key]:
        fresh = {device for device in self._seen if self.fresh(device) is not False}
        turned = sorted(fresh ^ self._was_fresh)
        self._was_fresh = fresh
        return turned
