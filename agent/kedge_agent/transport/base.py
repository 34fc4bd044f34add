# SPDX-License-Identifier: Apache-2.0
"""The seam between the supervisor and whatever carries its messages.

A transport connects once, when it is asked to; reconnecting is its caller's business.
It promises order within one session, and nothing else: a message that was sent may
never arrive, and one that was received may arrive again in the next session. That is
enough, because orders are whole states with a generation and reports are acknowledged.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

from kedge_wire.v1.session_pb2 import DeviceMessage, ServerMessage


class Session(ABC):
    """One connection. `send` and `receive` may run at the same time, each once."""

    @abstractmethod
    async def send(self, message: DeviceMessage) -> None:
        """Hand a message over. Returning does not mean that it arrived.

        Raises:
            NetworkError: The session is over, or the peer takes nothing any more.
        """

    @abstractmethod
    async def receive(self) -> ServerMessage:
        """Wait, for as long as it takes, for the next message.

        Raises:
            NetworkError: The session is over.
        """


class Transport(ABC):
    """Where sessions come from."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Session]:
        """Open a session; leaving the context closes it.

        Raises:
            NetworkError: On entry: nobody there, or they would not have us.
        """
