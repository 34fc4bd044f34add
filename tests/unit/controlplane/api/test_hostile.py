# SPDX-License-Identifier: Apache-2.0
"""Requests that nobody well-meaning sends: each gets a Status, quickly."""

from collections.abc import AsyncIterator

import httpx
import pytest

from kedge_controlplane.api.body import BODY_LIMIT, YAML_LIMIT
from tests.unit.controlplane.api.manifests import fleet

FLEETS = "/namespaces/default/fleets"
JSON = "application/json"
YAML = "application/yaml"

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
DEEP = 5000


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"", JSON, 400),
        (b"{", JSON, 400),
        (b"[]", JSON, 400),
        (b'"text"', JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b'{"a":NaN}', JSON, 400),
        (b'{"a":' * DEEP + b"1" + b"}" * DEEP, JSON, 400),
        (b'{"a":' * 100 + b"1" + b"}" * 100, JSON, 400),
        (b"{}", JSON, 422),
        (BOMB.encode(), YAML, 400),
        (b"- a\n", YAML, 400),
        (b"a: 1\n---\nb: 2\n", YAML, 400),
        (b"a: [" * DEEP, YAML, 400),
        (b"[" * DEEP + b"]" * DEEP, YAML, 400),
        (b"!!python/object/apply:os.system ['x']", YAML, 400),
        (b"1: 2", YAML, 400),
        (b"\xff\x00", YAML, 400),
        (b"a: 2026-01-01", YAML, 422),
        (b"x" * (BODY_LIMIT + 1), JSON, 413),
        (b"x" * (YAML_LIMIT + 1), YAML, 413),
        (b"k8s\x00", "application/vnd.kubernetes.protobuf", 415),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
async def test_a_body_that_cannot_be_is_refused(
    api: httpx.AsyncClient, content: bytes, kind: str, code: int
) -> None:
    answer = await api.post(FLEETS, content=content, headers={"content-type": kind})
    assert answer.status_code == code, answer.text
    assert answer.json()["kind"] == "Status"


async def test_a_body_of_unknown_length_ends_at_the_limit(
    api: httpx.AsyncClient,
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 100_000

    answer = await api.post(FLEETS, content=endless(), headers={"content-type": JSON})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=x",
        "limit=" + "9" * 30,
        "continue=%00",
        "continue=WzEsMl0%3D",
        "labelSelector=a=b=c",
        "labelSelector=a in (b",
        "labelSelector=" + ",".join(["a"] * 40),
        "labelSelector=" + "a" * 5000,
        "labelSelector='%3Bdrop table",
        "fieldSelector=spec.release=x",
        "fieldSelector=metadata.name=x,metadata.name=y",
        "fieldSelector=metadata.namespace=other",
        "watch=perhaps",
        "resourceVersion=abc",
    ],
)
async def test_a_parameter_that_cannot_be_is_refused(
    api: httpx.AsyncClient, query: str
) -> None:
    answer = await api.get(f"{FLEETS}?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["reason"] == "BadRequest"


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/namespaces/default/pods", 404),
        ("GET", "/namespaces/default/fleets/", 404),
        ("GET", "/namespaces/default/fleets/x/scale", 404),
        ("POST", "/namespaces/default/pods", 404),
        ("DELETE", "/namespaces/default/fleets", 405),
        ("POST", "/fleets", 405),
        ("GET", "/namespaces/default/enrollmenttokens", 404),
    ],
)
async def test_unknown_addresses_are_answered_with_a_status(
    api: httpx.AsyncClient, method: str, path: str, code: int
) -> None:
    answer = await api.request(method, path, json=fleet())
    assert answer.status_code == code, answer.text
    assert answer.json()["kind"] == "Status"


async def test_a_bug_is_answered_without_its_details(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("kedge_controlplane.api.reads.read_list", broken)
    answer = await api.get(FLEETS)
    assert answer.status_code == 500
    assert answer.json()["reason"] == "InternalError"
    assert "secret" not in answer.text
