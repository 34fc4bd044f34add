# SPDX-License-Identifier: Apache-2.0
"""Lines of components into the device's structured log: `kedge:ai/log`.

One object serves all instances of a workload, from their threads. A component cannot
flood the log: lines are cut, and what exceeds the rate is dropped and counted; the
count goes out with the next line that fits, and the last count when the workload is
closed.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

MAX_LINE_BYTES: Final = 4096
MAX_LINES_PER_SECOND: Final = 100

_LEVELS: Final[Mapping[str, int]] = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_CONTROL: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029)},
}
"""What terminals and log readers obey, or take for the end of a line."""


class GuestLog:
    """The log of one workload."""

    def __init__(
        self,
        *,
        tenant: str,
        workload: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fields: Final = {"tenant": tenant, "workload": workload}
        self._clock: Final = clock
        self._lock: Final = threading.Lock()
        self._window = float("-inf")
        self._lines = 0
        self._dropped = 0

    def functions(self) -> Mapping[str, Any]:
        """Functions by their item name in the interface."""
        return {"write": self.write}

    def write(self, level: str, message: str) -> None:
        """Log a line, or drop it."""
        with self._lock:
            if not self._admit():
                self._dropped += 1
                return
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._report(dropped)
        logger.log(
            _LEVELS[level],
            "guest: tenant=%s workload=%s: %s",
            self._fields["tenant"],
            self._fields["workload"],
            one_line(message),
            extra=dict(self._fields),
        )

    def close(self) -> None:
        """Report what was dropped last."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._report(dropped)

    def _admit(self) -> bool:
        now = self._clock()
        if now - self._window >= 1.0:
            self._window, self._lines = now, 0
        self._lines += 1
        return self._lines <= MAX_LINES_PER_SECOND

    def _report(self, dropped: int) -> None:
        logger.warning(
            "guest.log_dropped: tenant=%s workload=%s: %d lines",
            self._fields["tenant"],
            self._fields["workload"],
            dropped,
            extra={**self._fields, "dropped": dropped},
        )


def one_line(message: str) -> str:
    """Text of a component as it may go into the log: cut, and on one line."""
    cut = message.encode(errors="replace")[:MAX_LINE_BYTES].decode(errors="ignore")
    return cut.translate(_CONTROL)
