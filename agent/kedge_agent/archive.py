# SPDX-License-Identifier: Apache-2.0
"""Orders that were accepted earlier, read back from the disk and verified again."""

import contextlib
import logging
from collections.abc import Collection

from kedge_agent.disk import DiskThread, Store
from kedge_agent.errors import PeerDataError, StateError
from kedge_agent.journal import Journal
from kedge_agent.trust.order import VerifiedOrder
from kedge_agent.trust.verifier import Verifier

logger = logging.getLogger(__name__)


class Archive:
    """What `Store` holds is believed only as far as the verifier believes it."""

    def __init__(self, store: Store, disk: DiskThread, verifier: Verifier) -> None:
        self._store, self._disk, self._verifier = store, disk, verifier

    async def read(
        self, generation: int, *, whole: bool = False
    ) -> VerifiedOrder | None:
        """Return an accepted order, or None if it is not fit for use.

        Args:
            generation: Its number; 0 is none.
            whole: Require every artifact of it to be there and unchanged.
        """
        if not generation:
            return None
        try:
            return await self._disk.run(self._read, generation, whole=whole)
        except (PeerDataError, StateError) as exc:
            logger.warning("archive.unusable: generation=%d %s", generation, exc)
            return None

    async def accept(self, journal: Journal, order: VerifiedOrder) -> None:
        """Seal an order and raise the floor to it: one piece of work for the disk.

        Raises:
            LocalError: The floor stands, and so does the order at it.
        """
        await self._disk.run(self._accept, journal, order)

    async def collect(
        self, journal: Journal, *, held: Collection[VerifiedOrder]
    ) -> int:
        """Remove what no order needs; return how many files went.

        What is needed is decided where orders are accepted, on the disk thread: no
        order can come in between.

        Args:
            journal: Says which orders are needed.
            held: Orders in memory, which are needed even if their files are not usable.
        """
        return await self._disk.run(self._collect, journal, held)

    def _accept(self, journal: Journal, order: VerifiedOrder) -> None:
        # The bytes come first: a floor without its order could not be worked towards.
        self._store.put_generation(order.generation, order.envelope)
        journal.accept(
            order.generation, digest=order.digest, clock=order.issued.timestamp()
        )

    def _collect(self, journal: Journal, held: Collection[VerifiedOrder]) -> int:
        state = journal.state
        generations = {state.current, state.previous, state.floor, state.trial} - {0}
        orders = {order.generation: order for order in held}
        for generation in generations - orders.keys():
            with contextlib.suppress(PeerDataError):
                order = self._read(generation, whole=False)
                if order is not None:
                    orders[generation] = order
        return self._store.collect(
            digests={digest for order in orders.values() for digest in order.lengths},
            generations=generations,
            floor=state.floor,
        )

    def _read(self, generation: int, *, whole: bool) -> VerifiedOrder | None:
        order = self._verifier.verify_stored(
            self._store.generation(generation), generation=generation
        )
        held = all(
            self._store.holds(digest, length=length)
            for digest, length in (order.lengths.items() if whole else ())
        )
        return order if held else None
