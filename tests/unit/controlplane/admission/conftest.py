# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kedge_controlplane.admission.admission import Admission
from kedge_controlplane.blobs.memory import MemoryBlobs
from kedge_controlplane.store.migrate import upgrade
from kedge_controlplane.store.store import Store
from tests.unit.controlplane.admission.publisher import Publisher


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    url = f"sqlite+aiosqlite:///{tmp_path}/kedge.db"
    await upgrade(url)
    opened = await Store.open(url)
    yield opened
    await opened.close()


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
async def publisher(store: Store) -> Publisher:
    """A publisher that the namespace believes."""
    believed = Publisher()
    await store.create(believed.key())
    return believed


@pytest.fixture
def admission(store: Store, blobs: MemoryBlobs) -> Admission:
    return Admission(store, blobs)
