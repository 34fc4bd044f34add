# SPDX-License-Identifier: Apache-2.0
"""A migrated database in a file, opened as the server opens it."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kedge_controlplane.store import migrate
from kedge_controlplane.store.store import Store


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of this release, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "kedge.db"
    with asyncio.Runner() as runner:
        runner.run(migrate.upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/kedge.db"


@pytest.fixture
async def store(url: str, migrated: Path, tmp_path: Path) -> AsyncIterator[Store]:
    shutil.copy(migrated, tmp_path / "kedge.db")
    store = await Store.open(url)
    yield store
    await store.close()
