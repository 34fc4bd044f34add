# SPDX-License-Identifier: Apache-2.0
"""How many bytes of callers a server may hold, over both protocols.

Requests count until they are answered, answers until they are written: a client that
reads slowly, or not at all, holds its share and no more. Used from one event loop; no
line here waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kedge_agent.errors import OverloadedError


class Budget:
    """Bytes taken and given back.

    Attributes:
        limit_bytes: How many may be taken at once.
        taken_bytes: How many are.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes: Final = limit_bytes
        self.taken_bytes = 0

    def take(self, size: int) -> None:
        """Count `size` bytes as held.

        Raises:
            OverloadedError: They do not fit; nothing is counted.
        """
        if self.taken_bytes + size > self.limit_bytes:
            raise OverloadedError(
                f"expected at most {self.limit_bytes} bytes of requests and answers "
                f"under way, found {self.taken_bytes} and {size} more"
            )
        self.taken_bytes += size

    def give_back(self, size: int) -> None:
        self.taken_bytes -= size

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Take for as long as the context is open.

        Raises:
            OverloadedError: They do not fit.
        """
        self.take(size)
        try:
            yield
        finally:
            self.give_back(size)
