# SPDX-License-Identifier: Apache-2.0
"""What has to be done now and then though nobody asks for it.

Tokens that expired long ago are forgotten, and the server's certificate is renewed
while a third of its life is left: whoever listens is handed the new one. Killed at any
point, the next start does it. What fails is tried again the next time.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from kedge_controlplane.errors import (
    TooManyRequestsError,
    TrustError,
    UnavailableError,
)
from kedge_controlplane.reconcile.clock import Clock
from kedge_controlplane.store import tokens
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.ca import CertificateAuthority, ServerCertificate

logger = logging.getLogger(__name__)


class Upkeep:
    """Used from one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        authority: CertificateAuthority,
        names: Sequence[str],
        every: timedelta,
        keep_tokens: timedelta,
    ) -> None:
        """`names`: what the certificate holds for; `keep_tokens`: after their end."""
        self._store = store
        self._clock = clock
        self._authority = authority
        self._names = tuple(names)
        self._every_s = every.total_seconds()
        self._keep_tokens = keep_tokens
        self._certificate = self._current()

    @property
    def certificate(self) -> ServerCertificate:
        """What the server shows."""
        return self._certificate

    async def run(self, renewed: Callable[[ServerCertificate], None]) -> None:
        """Work until cancelled; `renewed` is told of a new certificate."""
        while True:
            await self._clock.sleep(self._every_s)
            try:
                self.renew(renewed)
                await self.forget_tokens()
            except (
                TooManyRequestsError,
                UnavailableError,
                TrustError,
                OSError,
            ) as error:
                logger.warning("upkeep: %s", error)

    def renew(self, renewed: Callable[[ServerCertificate], None]) -> None:
        """Renew the certificate if its end is near.

        Raises:
            OSError: It cannot be written.
        """
        current = self._current()
        if current != self._certificate:
            renewed(current)
            self._certificate = current
            logger.info("server certificate renewed")

    async def forget_tokens(self) -> None:
        """Delete tokens of no use; a device may repeat its request for a while."""
        before = self._clock.now() - self._keep_tokens
        count = await self._store.write(
            lambda transaction: tokens.remove_expired(transaction, before=before)
        )
        if count:
            logger.info("tokens forgotten count=%d", count)

    def _current(self) -> ServerCertificate:
        return self._authority.server_certificate(self._names, now=self._clock.now())
