# SPDX-License-Identifier: Apache-2.0
"""Who is connected, and which order each connected device knows.

One session per device: a second one ends the first, because a device that lost its
connection comes back before the server has noticed. All in memory and on one event
loop; after a restart devices connect again and say what they know.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from kedge_controlplane.reconcile.loop import Key
from kedge_controlplane.sessions.base import DeviceSession
from kedge_wire.v1.order_pb2 import Envelope
from kedge_wire.v1.session_pb2 import ServerMessage

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Connected:
    session: DeviceSession
    generation: int


class Hub:
    """The sessions of this process."""

    def __init__(self, *, changed: Callable[[Key], None]) -> None:
        """`changed` is told when a device connects or knows another order."""
        self._changed = changed
        self._connected: dict[Key, _Connected] = {}

    def open(self, session: DeviceSession, *, generation: int) -> None:
        """Make `session` the device's one."""
        device = session.device
        if (previous := self._connected.get(device)) is not None:
            previous.session.end("the device opened another session")
        self._connected[device] = _Connected(session=session, generation=generation)
        logger.info("session opened device=%s generation=%d", device, generation)
        self._changed(device)

    def close(self, session: DeviceSession) -> bool:
        """Forget `session`; False where another one took its place."""
        device = session.device
        connected = self._connected.get(device)
        if connected is None or connected.session is not session:
            return False
        del self._connected[device]
        logger.info("session closed device=%s", device)
        return True

    def note_generation(self, session: DeviceSession, generation: int) -> None:
        """Note which order the device says it knows."""
        connected = self._connected.get(session.device)
        if connected is None or connected.session is not session:
            return
        if connected.generation != generation:
            connected.generation = generation
            self._changed(session.device)

    def generation(self, device: Key) -> int | None:
        connected = self._connected.get(device)
        return None if connected is None else connected.generation

    def push(self, device: Key, order: Envelope) -> bool:
        connected = self._connected.get(device)
        return connected is not None and connected.session.send(
            ServerMessage(order=order)
        )

    def end(self, device: Key, reason: str) -> None:
        if (connected := self._connected.get(device)) is not None:
            connected.session.end(reason)

    def end_all(self, reason: str) -> None:
        """End every session: this process stops."""
        for connected in list(self._connected.values()):
            connected.session.end(reason)
