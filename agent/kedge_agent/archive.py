# SPDX-License-Identifier: Apache-2.0
"""Orders that were accepted earlier, read back from the disk and verified again."""

import logging

from kedge_agent.disk import DiskThread, Store
from kedge_agent.errors import PeerDataError
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
        except PeerDataError as exc:
            logger.warning("archive.unusable: generation=%d %s", generation, exc)
            return None

    def _read(self, generation: int, *, whole: bool) -> VerifiedOrder | None:
        order = self._verifier.verify_stored(
            self._store.generation(generation), generation=generation
        )
        held = all(
            self._store.holds(digest, length=length)
            for digest, length in (order.lengths.items() if whole else ())
        )
        return order if held else None
