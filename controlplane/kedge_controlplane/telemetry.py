# SPDX-License-Identifier: Apache-2.0
"""Logging of the server: one line per event, on standard error, in UTC."""

import logging
import sys
import time
from typing import Final

FORMAT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s"
DATES: Final = "%Y-%m-%dT%H:%M:%S"

_QUIET: Final = ("uvicorn", "sqlalchemy", "aiosqlite", "alembic", "asyncio")
"""Libraries of which only warnings concern an operator."""


def configure_logging(*, level: int = logging.INFO) -> None:
    """Send our events at `level` and above to standard error; replaces what was set."""
    formatter = logging.Formatter(FORMAT, DATES)
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
