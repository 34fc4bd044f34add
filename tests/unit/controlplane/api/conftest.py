# SPDX-License-Identifier: Apache-2.0
"""The API over a real store and blobs in memory, called in process."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from kedge_controlplane.api.app import build_app
from kedge_controlplane.api.auth import StoreAuthenticator
from kedge_controlplane.api.seams import ServerInfo
from kedge_controlplane.blobs.memory import MemoryBlobs
from kedge_controlplane.store import tokens
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.ca import CertificateAuthority
from kedge_controlplane.trust.enrolment import Enrolment
from kedge_controlplane.trust.tokens import Purpose, new_token, read_token
from tests.unit.controlplane.api.admission import PickyAdmission
from tests.unit.controlplane.store.conftest import migrated, store, url

__all__ = ["migrated", "store", "url"]  # fixtures that this folder shares

INFO = ServerInfo(
    version="0.1.0", gateway="localhost:9443", director_keys=({"keyid": "k"},)
)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    folder = tmp_path / "trust"
    folder.mkdir()
    return CertificateAuthority.open(folder, now=now())


@pytest.fixture
def admission() -> PickyAdmission:
    return PickyAdmission()


@pytest.fixture
def app(
    store: Store, authority: CertificateAuthority, admission: PickyAdmission
) -> Starlette:
    return build_app(
        store=store,
        blobs=MemoryBlobs(max_blob_bytes=1_000_000),
        admission=admission,
        enrolment=Enrolment(store=store, authority=authority, now=now),
        authenticator=StoreAuthenticator(store, clock=now),
        info=INFO,
    )


async def operator_token(store: Store, *, namespace: str = "") -> str:
    """Store an operator's token and return it."""
    text = new_token(Purpose.OPERATOR)
    presented = read_token(text)
    token = tokens.Token(
        id=presented.id,
        namespace=namespace,
        purpose=Purpose.OPERATOR,
        secret_sha256=presented.secret_sha256,
        user="ada",
        created=now(),
    )
    await store.write(lambda transaction: tokens.add(transaction, token))
    return text


@pytest.fixture
async def token(store: Store) -> str:
    return await operator_token(store)


@pytest.fixture
async def anonymous(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="https://kedge") as http:
        yield http


@pytest.fixture
async def api(app: Starlette, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an operator, below the group's path."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport,
        base_url="https://kedge/apis/kedge.dev/v1alpha1",
        headers={"authorization": f"Bearer {token}"},
    ) as http:
        yield http
