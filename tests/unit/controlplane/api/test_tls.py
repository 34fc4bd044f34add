# SPDX-License-Identifier: Apache-2.0
"""The real server: certificates, streams and how it stops."""

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from starlette.applications import Starlette

from kedge_controlplane.api import tls
from kedge_controlplane.api.tls import HEAD_LIMIT
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.store import certificates
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.ca import CertificateAuthority, read_request
from tests.unit.controlplane.api.conftest import now
from tests.unit.controlplane.api.manifests import device
from tests.unit.controlplane.api.served import Served, served, trusting
from tests.unit.controlplane.api.test_access import bearer, signing_request
from tests.unit.controlplane.api.test_lists import DEVICES

GROUP = "/apis/kedge.dev/v1alpha1"
DATA = bytes(range(256)) * 3000
DIGEST = hashlib.sha256(DATA).hexdigest()
BLOB = f"/blobs/sha256/{DIGEST}"
NAME = "d-0123456789abcdef"


@pytest.fixture
async def server(
    app: Starlette, authority: CertificateAuthority, tmp_path: Path
) -> AsyncIterator[Served]:
    async with served(app, authority, tmp_path) as server:
        yield server


@pytest.fixture
async def operator(
    server: Served, authority: CertificateAuthority, token: str
) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=server.url, verify=trusting(authority), headers=bearer(token)
    ) as http:
        yield http


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    key: Path
    certificate: Path
    serial: str

    def context(self, authority: CertificateAuthority) -> ssl.SSLContext:
        context = trusting(authority)
        context.load_cert_chain(self.certificate, self.key)
        return context


def identity(authority: CertificateAuthority, folder: Path) -> Identity:
    """A device's key and certificate by this authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_device(
        read_request(signing_request(key)),
        namespace="default",
        device=NAME,
        now=now(),
    )
    folder.mkdir()
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "certificate.pem").write_text(issued.pem)
    return Identity(
        key=folder / "key.pem",
        certificate=folder / "certificate.pem",
        serial=issued.serial,
    )


async def test_a_device_reads_ranges_with_its_certificate_and_nothing_else(
    server: Served,
    operator: httpx.AsyncClient,
    authority: CertificateAuthority,
    store: Store,
    tmp_path: Path,
) -> None:
    assert (await operator.put(BLOB, content=DATA)).status_code == 201
    mine = identity(authority, tmp_path / "device")
    row = certificates.Certificate(
        serial=mine.serial,
        namespace="default",
        device=NAME,
        not_after=now(),
        public_key_sha256="00" * 32,
    )
    await store.write(lambda within: certificates.add(within, row))
    await store.create(Device(metadata=ObjectMeta(name=NAME, namespace="default")))
    async with httpx.AsyncClient(
        base_url=server.url, verify=mine.context(authority)
    ) as http:
        answer = await http.get(BLOB, headers={"range": "bytes=1000-599999"})
        assert answer.status_code == 206
        assert answer.content == DATA[1000:600_000]
        assert (await http.head(BLOB)).headers["content-length"] == str(len(DATA))
        assert (await http.put(BLOB, content=DATA)).status_code == 403
        assert (await http.get(GROUP + DEVICES)).status_code == 403


async def test_a_certificate_of_another_authority_ends_the_handshake(
    server: Served, authority: CertificateAuthority, tmp_path: Path
) -> None:
    (tmp_path / "foreign").mkdir()
    foreign = CertificateAuthority.open(tmp_path / "foreign", now=now())
    theirs = identity(foreign, tmp_path / "device")
    async with httpx.AsyncClient(
        base_url=server.url, verify=theirs.context(authority)
    ) as http:
        with pytest.raises(httpx.TransportError):
            await http.get("/healthz")


async def test_without_a_certificate_and_token_there_is_only_health(
    server: Served, authority: CertificateAuthority
) -> None:
    async with httpx.AsyncClient(
        base_url=server.url, verify=trusting(authority)
    ) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get(BLOB)).status_code == 401


async def test_a_watch_streams_as_things_happen_and_ends_when_the_server_stops(
    server: Served, operator: httpx.AsyncClient
) -> None:
    params = {"watch": "true", "resourceVersion": "0"}
    async with operator.stream("GET", GROUP + DEVICES, params=params) as answer:
        lines = answer.aiter_lines()
        for name in ("d-1", "d-2"):
            await operator.post(GROUP + DEVICES, json=device(name))
            event = json.loads(await asyncio.wait_for(anext(lines), 10))
            assert event["object"]["metadata"]["name"] == name
        server.stop.set()
        assert [line async for line in lines] == []
    await asyncio.wait_for(asyncio.shield(server.ended), 10)


async def connect(
    server: Served, authority: CertificateAuthority
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(server.url.rsplit(":", 1)[1])
    return await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting(authority), server_hostname="localhost"
    )


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nx: "])
async def test_a_head_without_end_is_cut_off(
    server: Served, authority: CertificateAuthority, start: bytes
) -> None:
    reader, writer = await connect(server, authority)
    writer.write(start + b"x" * (HEAD_LIMIT + 1))
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_head_that_does_not_come_is_not_waited_for(
    server: Served, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HEAD_S", 0.05)
    reader, writer = await connect(server, authority)
    writer.write(b"GET / HTTP/1.1\r\n")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_cancelled_server_stops_and_frees_its_port(
    app: Starlette, authority: CertificateAuthority, tmp_path: Path
) -> None:
    async with served(app, authority, tmp_path) as server:
        server.ended.cancel()
        await asyncio.wait({server.ended}, timeout=10)
        assert server.ended.cancelled()
        async with httpx.AsyncClient(verify=trusting(authority)) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(f"{server.url}/healthz")


async def test_client_that_speaks_nothing_newer_than_tls_1_2_is_refused(
    server: Served, authority: CertificateAuthority
) -> None:
    context = trusting(authority)
    async with httpx.AsyncClient(base_url=server.url, verify=context) as http:
        assert (await http.get(BLOB)).is_client_error
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with httpx.AsyncClient(base_url=server.url, verify=context) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(BLOB)
