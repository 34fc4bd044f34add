# SPDX-License-Identifier: Apache-2.0
import json
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kedge_agent.enrolment import EnrolmentFile, Identity, _Client, _request, enrol
from kedge_agent.errors import NetworkError, PeerDataError, SettingsError
from kedge_agent.facts import Facts
from kedge_agent.settings import Settings
from tests.simulators.pki import Authority, make_key
from tests.simulators.repository import DEVICE, TENANT, TOKEN, BlobServer, Repository

FACTS = Facts.gather()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BlobServer]:
    with BlobServer({}, Authority(), tmp_path) as server:
        yield server


def document(server: BlobServer, /, **changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kedge.dev/v1alpha1",
        "kind": "EnrolmentFile",
        "server": server.url,
        "namespace": TENANT,
        "token": TOKEN,
        "ca": server.authority.pem.decode(),
        "gateway": "127.0.0.1:1",
        **Repository().key_documents,
    } | changes


def settings_for(tmp_path: Path, found: dict[str, Any]) -> Settings:
    path = tmp_path / "enrolment.json"
    path.write_text(json.dumps(found))
    return Settings(state_dir=tmp_path / "state", enrolment_file=path)


@pytest.fixture
def settings(tmp_path: Path, server: BlobServer) -> Settings:
    return settings_for(tmp_path, document(server))


async def test_a_device_gets_an_identity_and_keeps_its_key_private(
    settings: Settings,
) -> None:
    identity = await enrol(settings, FACTS)
    assert (identity.device, identity.tenant) == (DEVICE, TENANT)
    assert stat.S_IMODE(settings.tls.key.stat().st_mode) == 0o600
    assert b"BEGIN CERTIFICATE" in settings.tls.certificate.read_bytes()
    assert identity.keys.director[0].keyid


async def test_an_enrolled_device_asks_nobody(
    settings: Settings, server: BlobServer
) -> None:
    first = await enrol(settings, FACTS)
    asked = len(server.requests)
    assert settings.enrolment_file is not None
    settings.enrolment_file.unlink()
    again = await enrol(settings, FACTS)
    assert again.device == first.device
    assert len(server.requests) == asked


async def test_an_interrupted_enrolment_repeats_the_same_request(
    settings: Settings, server: BlobServer
) -> None:
    await enrol(settings, FACTS)
    (settings.identity_dir / "trust.json").unlink()
    settings.tls.certificate.unlink()
    assert (await enrol(settings, FACTS)).device == DEVICE
    assert len(server.answers) == 1


async def test_a_request_without_its_key_is_made_anew(
    settings: Settings, server: BlobServer
) -> None:
    await enrol(settings, FACTS)
    (settings.identity_dir / "trust.json").unlink()
    settings.tls.key.unlink()
    await enrol(settings, FACTS)
    assert len(server.answers) == 2


async def test_a_device_waits_for_approval(
    settings: Settings, server: BlobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kedge_agent.backoff.Backoff.next_s", lambda _: 0.001)
    server.pending_asks = 3
    assert (await enrol(settings, FACTS)).device == DEVICE
    paths = [path for path, _ in server.requests]
    assert [path.endswith("/er-1") for path in paths] == [False, True, True, True]


async def test_a_spent_token_is_named(tmp_path: Path, server: BlobServer) -> None:
    settings = settings_for(tmp_path, document(server, token="spent"))
    with pytest.raises(SettingsError, match=r"401: the token .* has expired") as caught:
        await enrol(settings, FACTS)
    assert caught.value.element == "token"


async def test_a_server_of_another_authority_learns_no_token(
    tmp_path: Path, server: BlobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TriedError(Exception):
        pass

    def tried(_: object) -> float:
        raise TriedError

    monkeypatch.setattr("kedge_agent.backoff.Backoff.next_s", tried)
    other = document(server, ca=Authority().pem.decode())
    with pytest.raises(TriedError):
        await enrol(settings_for(tmp_path, other), FACTS)
    assert server.requests == []


async def test_a_certificate_for_another_key_is_refused(
    settings: Settings, server: BlobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = server.authority.sign_key(make_key().public_key(), DEVICE).decode()
    monkeypatch.setattr(
        server,
        "enrol",
        lambda _: {
            "status": {"phase": "Approved", "device": DEVICE, "certificate": other}
        },
    )
    with pytest.raises(PeerDataError, match="this device's key"):
        await enrol(settings, FACTS)
    assert Identity.load(settings) is None


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({"phase": "Denied"}, "found it denied"),
        ({"phase": "Approved", "device": "../x", "certificate": "x"}, "device id"),
        ({"phase": "Approved", "device": DEVICE, "certificate": "x"}, "in PEM"),
    ],
    ids=["denied", "device-id", "certificate"],
)
async def test_an_answer_that_cannot_be_used_is_refused(
    settings: Settings,
    server: BlobServer,
    monkeypatch: pytest.MonkeyPatch,
    status: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setattr(server, "enrol", lambda _: {"status": status})
    with pytest.raises((SettingsError, PeerDataError), match=message):
        await enrol(settings, FACTS)


def test_a_server_without_tls_1_3_is_not_given_the_token(
    tmp_path: Path, server: BlobServer
) -> None:
    server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    settings = settings_for(tmp_path, document(server))
    assert settings.enrolment_file is not None
    file = EnrolmentFile.read(settings.enrolment_file)
    csr = _request(settings, file)
    with pytest.raises(NetworkError, match=r"(?i)version"):
        _Client(file, settings).ask(csr, FACTS, "")


async def test_a_device_without_a_file_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--enrollment FILE"):
        await enrol(Settings(state_dir=tmp_path), FACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Other"}, "kind EnrolmentFile"),
        ({"server": "http://x"}, "https://"),
        ({"token": ""}, "token: expected text"),
        ({"ca": 3}, "ca: expected text"),
        ({"namespace": "../x"}, "DNS label"),
        ({"directorKeys": []}, "at least one key"),
        ({"directorKeys": [{"keyid": "x", "keytype": "none"}]}, "public key"),
        ({"directorKeys": ["x"]}, "public key"),
        ({"publisherKeys": []}, "object of tenants"),
        ({"publisherKeys": {"default": 3}}, "list of at most"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, server: BlobServer, change: dict[str, Any], message: str
) -> None:
    settings = settings_for(tmp_path, document(server, **change))
    assert settings.enrolment_file is not None
    with pytest.raises(SettingsError, match=message):
        EnrolmentFile.read(settings.enrolment_file)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b" " * 2_000_000, b"[" * 99_999])
def test_a_file_that_is_no_json_object_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="enrolment file"):
        EnrolmentFile.read(path)
