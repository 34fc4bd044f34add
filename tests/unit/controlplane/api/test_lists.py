# SPDX-License-Identifier: Apache-2.0
"""Lists, Tables and discovery: what kubectl reads."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from kedge_controlplane.api.reads import INLINE_ROWS
from kedge_controlplane.api.selectors import parse_label_selector
from kedge_controlplane.api.table import table
from kedge_controlplane.model.meta import ObjectMeta
from kedge_controlplane.model.registry import BY_KIND, KINDS
from kedge_controlplane.model.rollout import Rollout, RolloutSpec
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction
from tests.unit.controlplane.api.manifests import device, fleet
from tests.unit.controlplane.store.objects import device as device_object

DEVICES = "/namespaces/default/devices"
TABLE = {
    "accept": "application/json;as=Table;v=v1;g=meta.k8s.io,"
    "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def fill(api: httpx.AsyncClient, count: int = 5) -> None:
    for number in range(count):
        site = "berlin" if number % 2 else "paris"
        await api.post(DEVICES, json=device(f"d-{number}", site=site))


def names(document: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in document["items"]]


async def test_a_list_is_a_list_document(api: httpx.AsyncClient) -> None:
    await fill(api)
    document = (await api.get(DEVICES)).json()
    assert document["kind"] == "DeviceList"
    assert document["metadata"] == {"resourceVersion": "5"}
    assert names(document) == [f"d-{number}" for number in range(5)]
    one = (await api.get(f"{DEVICES}/d-3")).json()
    assert document["items"][3] == one


async def test_pages_follow_one_another(api: httpx.AsyncClient) -> None:
    await fill(api)
    first = (await api.get(DEVICES, params={"limit": 3})).json()
    assert first["metadata"]["remainingItemCount"] == 2
    token = first["metadata"]["continue"]
    rest = (await api.get(DEVICES, params={"limit": 3, "continue": token})).json()
    assert names(first) + names(rest) == [f"d-{number}" for number in range(5)]
    assert "continue" not in rest["metadata"]


async def test_namespaces_are_apart_and_can_be_read_together(
    api: httpx.AsyncClient,
) -> None:
    await api.post(DEVICES, json=device("d-1"))
    await api.post("/namespaces/other/devices", json=device("d-2"))
    assert names((await api.get(DEVICES)).json()) == ["d-1"]
    assert names((await api.get("/devices")).json()) == ["d-1", "d-2"]
    selected = await api.get(
        "/devices", params={"fieldSelector": "metadata.namespace=other"}
    )
    assert names(selected.json()) == ["d-2"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("site=berlin", ["d-1", "d-3"]),
        ("site==berlin", ["d-1", "d-3"]),
        ("site!=berlin", ["d-0", "d-2", "d-4"]),
        ("site in (berlin, rome)", ["d-1", "d-3"]),
        ("site notin (berlin,paris)", []),
        ("site,!rank", ["d-0", "d-1", "d-2", "d-3", "d-4"]),
        ("rank", []),
        ("site=berlin,site=paris", []),
        ("site=", []),
    ],
)
async def test_label_selectors_select(
    api: httpx.AsyncClient, selector: str, expected: list[str]
) -> None:
    await fill(api)
    answer = await api.get(DEVICES, params={"labelSelector": selector})
    assert names(answer.json()) == expected


def test_an_empty_selector_matches_everything() -> None:
    assert parse_label_selector(" ").matches({})


async def test_a_field_selector_finds_one_by_name(api: httpx.AsyncClient) -> None:
    await fill(api)
    answer = await api.get(DEVICES, params={"fieldSelector": "metadata.name=d-3"})
    assert names(answer.json()) == ["d-3"]


async def test_kubectl_gets_a_table_of_the_registrys_columns(
    api: httpx.AsyncClient,
) -> None:
    await api.post("/namespaces/default/fleets", json=fleet())
    answer = await api.get("/namespaces/default/fleets", headers=TABLE)
    document = answer.json()
    assert document["kind"] == "Table"
    columns = [column["name"] for column in document["columnDefinitions"]]
    assert columns == ["Name", "Release", "UpToDate", "Rollout", "Status", "Age"]
    (row,) = document["rows"]
    assert row["cells"][:4] == ["cameras", "r-1", "0/0", ""]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert row["object"]["metadata"]["uid"]
    one = await api.get("/namespaces/default/fleets/cameras", headers=TABLE)
    assert one.json()["rows"][0]["cells"][0] == "cameras"


@pytest.mark.parametrize(
    ("include", "expected"), [("None", None), ("Object", "Device")]
)
async def test_rows_carry_what_was_asked_for(
    api: httpx.AsyncClient, include: str, expected: str | None
) -> None:
    await fill(api, 1)
    answer = await api.get(DEVICES, headers=TABLE, params={"includeObject": include})
    found = answer.json()["rows"][0]["object"]
    assert (found and found["kind"]) == expected
    bad = await api.get(DEVICES, headers=TABLE, params={"includeObject": "All"})
    assert bad.status_code == 400


@pytest.mark.parametrize(
    "accept",
    ["application/json", "*/*", "application/json, application/json;as=Table", "a/b"],
)
async def test_who_does_not_ask_for_a_table_gets_objects(
    api: httpx.AsyncClient, accept: str
) -> None:
    answer = await api.get(DEVICES, headers={"accept": accept})
    assert answer.json()["kind"] == "DeviceList"


@pytest.mark.parametrize(
    ("age", "shown"),
    [
        (timedelta(seconds=-5), "0s"),
        (timedelta(seconds=179), "179s"),
        (timedelta(minutes=3), "3m"),
        (timedelta(hours=2, minutes=59), "179m"),
        (timedelta(hours=47), "47h"),
        (timedelta(days=400), "400d"),
    ],
)
def test_ages_are_short(age: timedelta, shown: str) -> None:
    created = (NOW - age).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {"metadata": {"name": "x", "creationTimestamp": created}}
    rendered = table(BY_KIND["Model"], [document], metadata={}, include="None", now=NOW)
    assert rendered["rows"][0]["cells"] == ["x", shown]


async def test_a_long_list_is_rendered_like_a_short_one(
    api: httpx.AsyncClient, store: Store
) -> None:
    async def work(transaction: Transaction) -> None:
        for number in range(INLINE_ROWS + 1):
            await transaction.create(device_object(f"d-{number:04}"))

    await store.write(work)
    rows = (await api.get(DEVICES, headers=TABLE)).json()["rows"]
    assert len(rows) == INLINE_ROWS + 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
async def test_every_kind_lists_and_shows_in_a_table(
    api: httpx.AsyncClient, store: Store, kind: Any
) -> None:
    rollout = Rollout(
        metadata=ObjectMeta(name="x", namespace="default"),
        spec=RolloutSpec(fleet="f", template_version="t"),
    )
    await store.create(rollout)
    for headers in (TABLE, {}):
        answer = await api.get(f"/namespaces/default/{kind.plural}", headers=headers)
        assert answer.status_code == 200


async def test_discovery_lists_every_kind_and_its_verbs(
    anonymous: httpx.AsyncClient, token: str
) -> None:
    anonymous.headers["authorization"] = f"Bearer {token}"
    groups = (await anonymous.get("/apis")).json()["groups"]
    assert groups[0]["preferredVersion"]["groupVersion"] == "kedge.dev/v1alpha1"
    assert (await anonymous.get("/apis/")).json()["groups"] == groups
    assert (await anonymous.get("/apis/kedge.dev")).json()["name"] == "kedge.dev"
    assert (await anonymous.get("/api")).json()["versions"] == []
    document = (await anonymous.get("/apis/kedge.dev/v1alpha1")).json()
    resources = {entry["name"]: entry for entry in document["resources"]}
    assert {kind.plural for kind in KINDS} < set(resources)
    assert resources["devices"]["shortNames"] == ["dev"]
    assert "fleets/status" in resources
    assert "releases/status" not in resources
    assert resources["enrollmenttokens"]["verbs"] == ["create"]
    assert (await anonymous.get("/openapi/v2")).json()["reason"] == "NotFound"


async def test_facts_and_probes(anonymous: httpx.AsyncClient, token: str) -> None:
    for path in ("/healthz", "/readyz", "/livez"):
        assert (await anonymous.get(path)).text == "ok"
    version = (await anonymous.get("/version")).json()
    assert version["gitVersion"].endswith("+kedge.0.1.0")
    assert (await anonymous.get("/.well-known/kedge.json")).status_code == 401
    anonymous.headers["authorization"] = f"Bearer {token}"
    assert (await anonymous.get("/.well-known/kedge.json")).json() == {
        "gateway": "localhost:9443",
        "directorKeys": [{"keyid": "k"}],
        "version": "0.1.0",
    }
