# SPDX-License-Identifier: Apache-2.0
"""Connections: what is particular about SQLite is here and nowhere else.

A writing connection takes the database's lock at BEGIN, so a transaction never finds
out half way that it may not write. WAL lets readers go on beside it. synchronous=FULL:
what COMMIT answered survives a power cut.
"""

from typing import Any, Final

import orjson
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from kedge_controlplane.errors import SettingsError

DRIVER: Final = "sqlite+aiosqlite"
READERS: Final = 4  # connections, each with a thread
CHECKOUT_S: Final = 10.0  # how long a reader waits for a connection
BUSY_MS: Final = 10_000  # another process's lock: a migration, a backup

_PRAGMAS: Final = (
    f"PRAGMA busy_timeout={BUSY_MS}",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
)


def check_url(url: str) -> None:
    """Raise SettingsError unless it names a database that this release can use."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError(f"expected a database URL, found {url!r:.200}") from error
    if parsed.drivername != DRIVER or not parsed.database or ":" in parsed.database:
        raise SettingsError(
            f"expected {DRIVER}:///<file> as the database, "
            f"found {parsed.render_as_string(hide_password=True)!r:.200}"
        )


def writing_engine(url: str) -> AsyncEngine:
    """One connection whose transactions hold the write lock from BEGIN to COMMIT."""
    return _engine(url, connections=1, begin="BEGIN IMMEDIATE", pragmas=_PRAGMAS)


def reading_engine(url: str) -> AsyncEngine:
    """Connections that cannot write; a transaction is one snapshot."""
    pragmas = (*_PRAGMAS, "PRAGMA query_only=ON")
    return _engine(url, connections=READERS, begin="BEGIN", pragmas=pragmas)


def _engine(
    url: str, *, connections: int, begin: str, pragmas: tuple[str, ...]
) -> AsyncEngine:
    check_url(url)
    engine = create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=CHECKOUT_S,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={"isolation_level": None},  # BEGIN is ours, not sqlite3's
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, entry: ConnectionPoolEntry) -> None:
        del entry
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
