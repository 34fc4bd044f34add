# SPDX-License-Identifier: Apache-2.0
"""What controllers need of the device sessions, whichever transport carries them."""

from datetime import datetime
from typing import Protocol

from kedge_controlplane.reconcile.loop import Key
from kedge_wire.v1.order_pb2 import Envelope


class Sessions(Protocol):
    """Who is connected. Delivery is not promised: orders are repeated, not queued."""

    def generation(self, device: Key) -> int | None:
        """Return the newest order that the device knows; None: not connected."""

    def push(self, device: Key, order: Envelope) -> bool:
        """Send an order if the device is connected; False if it is not."""

    def end(self, device: Key, reason: str) -> None:
        """End the device's session, if it has one."""


class Leases(Protocol):
    """When devices were last heard of."""

    def last_seen(self, device: Key) -> datetime | None:
        """Return when, or None if never."""

    def fresh(self, device: Key) -> bool | None:
        """Say whether that is recent enough to call the device online.

        None: nobody has listened long enough to know.
        """

    def closed(self, device: Key) -> bool:
        """Say whether its session was seen to end, long enough ago to mean it."""

    def forget(self, device: Key) -> None:
        """Forget a device that is gone for good."""
