# SPDX-License-Identifier: Apache-2.0
"""Bring a database to the schema of this release, with Alembic, in one transaction.

A process killed on the way leaves the database as it was: SQLite's DDL is transactional
once BEGIN is ours (engine.py).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

import kedge_migrations
from kedge_controlplane.errors import SettingsError
from kedge_controlplane.store.engine import check_url, writing_engine

R = TypeVar("R")

_SCRIPTS: Final = Path(kedge_migrations.__file__).parent


async def upgrade(url: str, revision: str = "head") -> None:
    """Create the database or bring it forward; raises SettingsError."""
    await _within(url, lambda at: command.upgrade(_config(at), revision))


async def downgrade(url: str, revision: str) -> None:
    """Take the database back; what the older schema has no place for is lost."""
    await _within(url, lambda at: command.downgrade(_config(at), revision))


async def current(url: str) -> str | None:
    """Return the database's revision; None for an empty database."""
    return await _within(
        url, lambda at: MigrationContext.configure(at).get_current_revision()
    )


def head() -> str:
    """Return the revision that this release works with."""
    revision = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    if revision is None:
        raise SettingsError(f"expected migrations in {_SCRIPTS}, found none")
    return revision


async def _within(url: str, work: Callable[[Connection], R]) -> R:
    check_url(url)
    _make_private(url)
    engine = writing_engine(url)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    except (SQLAlchemyError, CommandError) as error:
        raise SettingsError(f"cannot use the database {url}: {error}") from error
    finally:
        await engine.dispose()


def _make_private(url: str) -> None:
    """Let nobody else read a new database; its WAL gets the same mode."""
    path = Path(make_url(url).database or "")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return  # its mode is its owner's choice
    except OSError as error:
        raise SettingsError(f"cannot make the database {path}: {error}") from error


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
