# SPDX-License-Identifier: Apache-2.0
"""Migrations make the schema that the code expects, forwards and backwards."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from kedge_controlplane.errors import SettingsError
from kedge_controlplane.model.device import Device
from kedge_controlplane.store import migrate
from kedge_controlplane.store.engine import writing_engine
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.tables import METADATA
from tests.unit.controlplane.store.objects import device


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, METADATA))


async def test_migrations_make_exactly_the_tables_of_the_code(url: str) -> None:
    await migrate.upgrade(url)
    engine = writing_engine(url)
    async with engine.begin() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_a_populated_database_goes_down_and_up_again(url: str) -> None:
    await migrate.upgrade(url)
    store = await Store.open(url)
    await store.create(device("d-1", site="berlin"))
    await store.close()
    await migrate.downgrade(url, "base")
    assert await migrate.current(url) is None
    engine = writing_engine(url)
    async with engine.begin() as connection:
        names = await connection.run_sync(lambda at: inspect(at).get_table_names())
    await engine.dispose()
    assert names == ["alembic_version"]
    await migrate.upgrade(url)
    assert await migrate.current(url) == migrate.head()
    store = await Store.open(url)
    assert (await store.list(Device)).items == []
    await store.close()


async def test_upgrading_twice_keeps_what_is_there(url: str) -> None:
    await migrate.upgrade(url)
    store = await Store.open(url)
    await store.create(device("d-1"))
    await store.close()
    await migrate.upgrade(url)
    store = await Store.open(url)
    assert (await store.get(Device, "default", "d-1")).name == "d-1"
    await store.close()


async def test_a_migration_that_fails_leaves_the_database_as_it_was(
    url: str, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "kedge.db") as connection:
        connection.execute("CREATE TABLE rollouts (unrelated TEXT)")
    connection.close()
    with pytest.raises(SettingsError, match="rollouts already exists"):
        await migrate.upgrade(url)
    engine = writing_engine(url)
    async with engine.begin() as opened:
        names = await opened.run_sync(lambda at: inspect(at).get_table_names())
    await engine.dispose()
    assert names == ["rollouts"]


async def test_a_file_that_is_no_database_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "kedge.db").write_bytes(b"not a database" * 100)
    with pytest.raises(SettingsError, match="not a database"):
        await migrate.upgrade(url)
