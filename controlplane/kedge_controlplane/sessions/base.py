# SPDX-License-Identifier: Apache-2.0
"""The seam between device sessions and the transports that carry them.

A session is one device's current connection. Sending promises nothing: a message may be
lost with the connection, and whoever sends repeats what matters. Messages that do
arrive arrive in order. The memory session is for simulations and tests.
"""

from abc import ABC, abstractmethod

from kedge_controlplane.reconcile.loop import Key
from kedge_wire.v1.session_pb2 import ServerMessage


class DeviceSession(ABC):
    """One connection. Its transport decides who the device is before it makes one."""

    def __init__(self, device: Key) -> None:
        self.device = device

    @abstractmethod
    def send(self, message: ServerMessage) -> bool:
        """Queue a message; False where the queue is full or the session has ended."""

    @abstractmethod
    def end(self, reason: str) -> None:
        """End the session; may be called more than once."""


class MemorySession(DeviceSession):
    """Keeps what was sent."""

    def __init__(self, device: Key) -> None:
        super().__init__(device)
        self.sent: list[ServerMessage] = []
        self.ended = ""

    def send(self, message: ServerMessage) -> bool:
        if self.ended:
            return False
        self.sent.append(message)
        return True

    def end(self, reason: str) -> None:
        self.ended = self.ended or reason
