# SPDX-License-Identifier: Apache-2.0
"""Who may call what, and enrolment."""

import base64
from datetime import timedelta
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kedge_controlplane.api.auth import StoreAuthenticator
from kedge_controlplane.errors import UnauthorizedError
from kedge_controlplane.model.device import Device
from kedge_controlplane.store import certificates, tokens
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.tokens import Purpose, new_token, read_token
from tests.unit.controlplane.api.conftest import now, operator_token
from tests.unit.controlplane.api.manifests import document, fleet

NAMESPACE = "/apis/kedge.dev/v1alpha1/namespaces/default"
REQUESTS = f"{NAMESPACE}/enrollmentrequests"


def signing_request(key: ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anything")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def request_of(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    spec = {"csr": signing_request(key), "hostname": "cam"}
    return document("EnrollmentRequest", None, spec=spec)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
async def enrolment_token(anonymous: httpx.AsyncClient, token: str) -> str:
    answer = await anonymous.post(
        f"{NAMESPACE}/enrollmenttokens",
        json={"spec": {"labels": {"site": "berlin"}, "ttlSeconds": 600}},
        headers=bearer(token),
    )
    assert answer.status_code == 201, answer.text
    status = answer.json()["status"]
    assert status["expires"].endswith("Z")
    made: str = status["token"]
    return made


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer x",
        "Basic YTpi",
        f"Bearer {new_token(Purpose.OPERATOR)}",
        "Bearer kedge_operator_0_\u00e9",
    ],
)
async def test_strangers_are_refused(anonymous: httpx.AsyncClient, header: str) -> None:
    answer = await anonymous.get(
        f"{NAMESPACE}/fleets", headers={b"authorization": header.encode()}
    )
    assert answer.status_code == 401
    assert answer.json()["reason"] == "Unauthorized"
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_token_with_another_secret_or_purpose_is_unknown(
    store: Store, token: str
) -> None:
    authenticator = StoreAuthenticator(store, clock=now)
    forged = f"{token[:-4]}0000"
    relabelled = token.replace("operator", "enrolment")
    for text in (forged, relabelled):
        with pytest.raises(UnauthorizedError, match="token: unknown"):
            await authenticator.authenticate(bearer(text), None)
    principal = await authenticator.authenticate(bearer(token), b"ignored")
    assert (principal.kind, principal.name) == ("operator", "ada")


async def test_tokens_expire(store: Store, enrolment_token: str) -> None:
    later = StoreAuthenticator(store, clock=lambda: now() + timedelta(hours=1))
    with pytest.raises(UnauthorizedError, match="expired"):
        await later.authenticate(bearer(enrolment_token), None)


async def test_a_used_token_ends_with_its_time_too(
    anonymous: httpx.AsyncClient,
    store: Store,
    enrolment_token: str,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    anonymous.headers.update(bearer(enrolment_token))
    assert (await anonymous.post(REQUESTS, json=request_of(key))).status_code == 201
    later = StoreAuthenticator(store, clock=lambda: now() + timedelta(hours=1))
    with pytest.raises(UnauthorizedError, match="expired"):
        await later.authenticate(bearer(enrolment_token), None)


async def test_an_operator_of_a_namespace_stays_in_it(
    anonymous: httpx.AsyncClient, store: Store
) -> None:
    anonymous.headers.update(bearer(await operator_token(store, namespace="default")))
    assert (await anonymous.get(f"{NAMESPACE}/fleets")).status_code == 200
    assert (await anonymous.get("/apis")).status_code == 200
    other = NAMESPACE.replace("default", "other")
    assert (await anonymous.post(f"{other}/fleets", json=fleet())).status_code == 403
    for path in ("enrollmentrequests", "enrollmenttokens", "enrollmentrequests/x"):
        method = "GET" if "/" in path else "POST"
        answer = await anonymous.request(method, f"{other}/{path}", json={})
        assert answer.status_code == 403, path
    answer = await anonymous.get("/apis/kedge.dev/v1alpha1/fleets")
    assert "expected namespace default, found all namespaces" in answer.text


async def test_a_device_enrols_with_a_token_once_and_can_ask_again(
    anonymous: httpx.AsyncClient,
    store: Store,
    enrolment_token: str,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    anonymous.headers.update(bearer(enrolment_token))
    answer = await anonymous.post(REQUESTS, json=request_of(key))
    assert answer.status_code == 201, answer.text
    made = answer.json()
    device = await store.get(Device, "default", made["status"]["device"])
    assert device.metadata.labels == {"site": "berlin"}
    again = await anonymous.post(REQUESTS, json=request_of(key))
    assert again.json()["status"] == made["status"]
    name = made["metadata"]["name"]
    assert (await anonymous.get(f"{REQUESTS}/{name}")).json() == made
    assert (await anonymous.get(f"{REQUESTS}/er-0")).status_code == 403
    thief = ec.generate_private_key(ec.SECP256R1())
    stolen = await anonymous.post(REQUESTS, json=request_of(thief))
    assert stolen.status_code == 401
    assert "used by another device" in stolen.json()["message"]


async def test_an_enrolment_token_opens_nothing_else(
    anonymous: httpx.AsyncClient,
    enrolment_token: str,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    anonymous.headers.update(bearer(enrolment_token))
    for method, path in (
        ("GET", f"{NAMESPACE}/devices"),
        ("GET", REQUESTS),
        ("POST", f"{NAMESPACE}/enrollmenttokens"),
        ("DELETE", f"{REQUESTS}/x"),
        ("GET", f"/blobs/sha256/{'0' * 64}"),
        ("PUT", f"/blobs/sha256/{'0' * 64}"),
    ):
        answer = await anonymous.request(method, path, json={})
        assert answer.status_code == 403, path
    other = REQUESTS.replace("default", "other")
    answer = await anonymous.post(other, json=request_of(key))
    assert answer.status_code == 403
    dry = await anonymous.post(REQUESTS, json=request_of(key), params={"dryRun": "All"})
    assert dry.status_code == 400


async def test_an_operator_asks_for_no_certificate(
    anonymous: httpx.AsyncClient, token: str, key: ec.EllipticCurvePrivateKey
) -> None:
    anonymous.headers.update(bearer(token))
    answer = await anonymous.post(REQUESTS, json=request_of(key))
    assert answer.status_code == 403
    assert "`kedge enroll`" in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"spec": {"ttlSeconds": 0}}, "spec.ttlSeconds"),
        ({"spec": {"label": {}}}, "spec.label"),
        ({"spec": {"labels": {"a": "b c"}}}, "spec.labels"),
    ],
)
async def test_a_token_that_cannot_be_is_refused(
    anonymous: httpx.AsyncClient, token: str, body: dict[str, Any], field: str
) -> None:
    answer = await anonymous.post(
        f"{NAMESPACE}/enrollmenttokens", json=body, headers=bearer(token)
    )
    assert answer.json()["details"]["causes"][0]["field"] == field


async def test_a_rehearsed_token_is_not_stored(
    anonymous: httpx.AsyncClient, token: str, store: Store
) -> None:
    answer = await anonymous.post(
        f"{NAMESPACE}/enrollmenttokens",
        json={},
        params={"dryRun": "All"},
        headers=bearer(token),
    )
    made = read_token(answer.json()["status"]["token"])
    assert await tokens.find(store, made.id) is None


async def test_a_device_is_its_certificate_until_revoked_or_deleted(
    anonymous: httpx.AsyncClient,
    store: Store,
    enrolment_token: str,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    anonymous.headers.update(bearer(enrolment_token))
    made = (await anonymous.post(REQUESTS, json=request_of(key))).json()
    pem = made["status"]["certificate"].encode()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    authenticator = StoreAuthenticator(store, clock=now)
    principal = await authenticator.authenticate({}, der)
    assert principal.kind == "device"
    assert principal.name == made["status"]["device"]
    assert principal.namespace == "default"
    gone = await store.get(Device, "default", principal.name)
    await store.delete(Device, "default", principal.name)
    with pytest.raises(UnauthorizedError, match="does not exist"):
        await authenticator.authenticate({}, der)
    await store.create(gone)
    await store.write(
        lambda within: certificates.revoke_device(
            within, "default", principal.name, at=now()
        )
    )
    with pytest.raises(UnauthorizedError, match="revoked"):
        await authenticator.authenticate({}, der)
    with pytest.raises(UnauthorizedError, match="certificate"):
        await authenticator.authenticate({}, base64.b64decode("AAAA"))
