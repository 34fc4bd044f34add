# SPDX-License-Identifier: Apache-2.0
"""Requests that nobody well-meaning sends: each gets a Status, quickly."""

from collections.abc import AsyncIterator
from typing import Any

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
        "labelSelector=a//b",
        "labelSelector=a in (" + ",".join(["x"] * 300) + ")",
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


@pytest.mark.parametrize(
    "value",
    ['!!int ""', '!!float ""', "!!bool x", "!!timestamp x", "!!null x", "!!set {a}"],
)
async def test_a_yaml_tag_that_lies_is_refused(
    api: httpx.AsyncClient, value: str
) -> None:
    answer = await api.post(
        FLEETS,
        content=f"spec: {value}".encode(),
        headers={"content-type": "application/yaml"},
    )
    assert answer.status_code == 400, answer.text
    assert "expected one YAML document" in answer.json()["message"]


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
)
async def test_a_time_beyond_all_calendars_is_refused(
    api: httpx.AsyncClient, moment: str
) -> None:
    manifest = fleet()
    manifest["metadata"]["creationTimestamp"] = moment
    answer = await api.post(FLEETS, json=manifest)
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    ("selector", "field"),
    [
        ({"matchLabels": {f"k{n}": "v" for n in range(33)}}, "matchLabels"),
        (
            {"matchExpressions": [{"key": "a", "operator": "Exists"}] * 33},
            "matchExpressions",
        ),
        (
            {"matchExpressions": [{"key": "a b", "operator": "Exists"}]},
            "matchExpressions[0].key",
        ),
        (
            {
                "matchExpressions": [
                    {"key": "a", "operator": "In", "values": ["x"] * 257}
                ]
            },
            "matchExpressions[0].values",
        ),
        (
            {
                "matchExpressions": [
                    {"key": "a", "operator": "In", "values": ["x" * 64]}
                ]
            },
            "matchExpressions[0].values[0]",
        ),
    ],
    ids=["labels", "expressions", "key", "values", "value"],
)
async def test_a_selector_has_limits(
    api: httpx.AsyncClient, selector: dict[str, Any], field: str
) -> None:
    manifest = fleet()
    manifest["spec"]["selector"] = selector
    answer = await api.post(FLEETS, json=manifest)
    assert answer.status_code == 422, answer.text
    causes = answer.json()["details"]["causes"]
    assert [cause["field"] for cause in causes] == [f"spec.selector.{field}"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rolloutPolicy", "defaultUpdateTimeout"), "99999999999999h"),
        (("rolloutPolicy", "defaultUpdateTimeout"), "367h1000000m"),
        (("rolloutPolicy", "defaultUpdateTimeout"), "999ms"),
        (("limits", "wallTime"), "2000h"),
        (("limits", "wallTime"), "0s"),
        (("limits", "componentMemoryLimit"), "99999999999999Gi"),
    ],
)
async def test_an_amount_has_limits(
    api: httpx.AsyncClient, path: tuple[str, str], value: str
) -> None:
    manifest = fleet()
    spec = manifest["spec"]
    where = spec if path[0] == "rolloutPolicy" else spec["template"]["spec"]
    where[path[0]] = {path[1]: value}
    answer = await api.post(FLEETS, json=manifest)
    assert answer.status_code == 422, answer.text
    assert answer.json()["details"]["causes"][0]["field"].endswith(path[1])


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
