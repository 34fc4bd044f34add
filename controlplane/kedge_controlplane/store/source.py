# SPDX-License-Identifier: Apache-2.0
"""Where side tables are read: the store, or a transaction that sees its own writes."""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Executable, RowMapping


class Source(Protocol):
    """`Store` and `Transaction` are sources."""

    async def fetch(self, statement: Executable) -> Sequence[RowMapping]:
        """Run a SELECT."""
        ...
