# SPDX-License-Identifier: Apache-2.0
"""What operators may write is declared in the registry; what is named stays."""

from typing import Any

import httpx
import pytest

from kedge_controlplane.model.component_version import ComponentVersion
from kedge_controlplane.model.configset import ConfigSet
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.model_version import ModelVersion
from kedge_controlplane.model.registry import BY_KIND, KINDS
from kedge_controlplane.model.rollout import Rollout
from kedge_controlplane.model.template_version import TemplateVersion
from kedge_controlplane.store.store import Store
from tests.unit.controlplane.api.manifests import device, document, fleet, release
from tests.unit.controlplane.api.test_objects import MERGE, failed

NAMESPACE = "/namespaces/default"
ARTIFACT = {"sha256": "00" * 32, "length": 1}
STATEMENT = {
    "payloadType": "t",
    "payload": "",
    "signatures": [{"keyid": "k", "sig": "s"}],
}
VERSION = {"version": "1", "artifact": ARTIFACT, "statement": STATEMENT}


async def stored(store: Store, cls: type[Resource], name: str, **members: Any) -> None:
    metadata = {"name": name, "namespace": "default"}
    await store.create(cls.model_validate({"metadata": metadata} | members))


def rollout(name: str, phase: str) -> dict[str, Any]:
    spec = {"fleet": "cameras", "templateVersion": "tv-1"}
    return document("Rollout", name, spec=spec, status={"phase": phase})


def template(name: str) -> dict[str, Any]:
    resolved: dict[str, Any] = {"name": "x", "version": "1"}
    resolved |= {"artifact": ARTIFACT, "statement": STATEMENT}
    workload: dict[str, Any] = {"name": "w", "tenant": "default"}
    workload |= dict.fromkeys(("component", "model", "config"), resolved)
    spec = {"fleet": "cameras", "release": "r-1", "workloads": [workload]}
    return document("TemplateVersion", name, spec=spec)


@pytest.mark.parametrize(
    ("cls", "manifest"),
    [(Rollout, rollout("x", "Progressing")), (TemplateVersion, template("x"))],
    ids=["rollout", "template"],
)
async def test_operators_do_not_write_what_controllers_write(
    api: httpx.AsyncClient, store: Store, cls: type[Resource], manifest: dict[str, Any]
) -> None:
    path = f"{NAMESPACE}/{BY_KIND[cls.__name__].plural}"
    failed(await api.post(path, json=manifest), 403, "Forbidden")
    members = {key: manifest[key] for key in ("spec", "status") if key in manifest}
    await stored(store, cls, "x", **members)
    failed(await api.put(f"{path}/x", json=manifest), 403, "Forbidden")
    answer = await api.patch(f"{path}/x", json={}, headers=MERGE)
    failed(answer, 403, "Forbidden")
    status = failed(await api.delete(f"{path}/x"), 403, "Forbidden")
    assert "fleets" in status["message"]
    assert (await store.get(cls, "default", "x")).name == "x"


@pytest.mark.parametrize("phase", ["Completed", "Aborted"])
async def test_a_rollout_that_ended_can_be_deleted(
    api: httpx.AsyncClient, store: Store, phase: str
) -> None:
    await stored(
        store,
        Rollout,
        "x",
        spec=rollout("x", phase)["spec"],
        status={"phase": phase},
    )
    answer = await api.delete(f"{NAMESPACE}/rollouts/x")
    assert answer.json()["status"] == "Success"


async def test_what_a_device_runs_is_not_for_operators(
    api: httpx.AsyncClient, store: Store
) -> None:
    devices = f"{NAMESPACE}/devices"
    claimed = device("d-1") | {"spec": {"fleet": "cameras"}}
    failed(await api.post(devices, json=claimed), 403, "Forbidden")
    await stored(store, Device, "d-1", spec={"fleet": "cameras"})
    for patch in ({"spec": {"fleet": "mine"}}, {"spec": None}):
        answer = await api.patch(f"{devices}/d-1", json=patch, headers=MERGE)
        status = failed(answer, 403, "Forbidden")
        assert "labels and annotations" in status["message"]
    labelled = {"metadata": {"labels": {"site": "berlin"}}}
    answer = await api.patch(f"{devices}/d-1", json=labelled, headers=MERGE)
    assert answer.status_code == 200
    assert answer.json()["spec"]["fleet"] == "cameras"
    assert (await api.delete(f"{devices}/d-1")).status_code == 200


async def test_no_status_is_for_operators(api: httpx.AsyncClient) -> None:
    for kind in KINDS:
        path = f"{NAMESPACE}/{kind.plural}/x/status"
        answer = await api.put(path, json={})
        expected = (403, "Forbidden") if kind.has_status else (404, "NotFound")
        failed(answer, *expected)


async def test_discovery_tells_what_operators_may_do(api: httpx.AsyncClient) -> None:
    answer = await api.get("https://kedge/apis/kedge.dev/v1alpha1")
    entries = {e["name"]: e["verbs"] for e in answer.json()["resources"]}
    assert entries["templateversions"] == ["get", "list", "watch"]
    assert entries["rollouts"] == ["delete", "get", "list", "watch"]
    assert entries["rollouts/status"] == ["get"]
    assert "create" in entries["fleets"]


@pytest.mark.parametrize(
    ("cls", "name", "spec"),
    [
        (
            ComponentVersion,
            "c-1",
            {"component": "c", "modelInputs": [], "modelOutputs": []},
        ),
        (ModelVersion, "digits-1", {"model": "digits", "inputs": [], "outputs": []}),
        (ConfigSet, "k-1", {"config": "k", "values": {}}),
    ],
    ids=["component", "model", "config"],
)
async def test_a_version_stays_as_long_as_a_release_names_it(
    api: httpx.AsyncClient,
    store: Store,
    cls: type[Resource],
    name: str,
    spec: dict[str, Any],
) -> None:
    await stored(store, cls, name, spec=VERSION | spec)
    await api.post(f"{NAMESPACE}/releases", json=release("r-1"))
    path = f"{NAMESPACE}/{BY_KIND[cls.__name__].plural}/{name}"
    status = failed(await api.delete(path), 422, "Invalid")
    assert f'"{name}" is in use by release r-1' in status["message"]
    other = f"/namespaces/other/{BY_KIND[cls.__name__].plural}/{name}"
    failed(await api.delete(other), 404, "NotFound")
    assert (await api.delete(f"{NAMESPACE}/releases/r-1")).status_code == 200
    assert (await api.delete(path)).status_code == 200


async def test_a_release_stays_as_long_as_a_fleet_names_it(
    api: httpx.AsyncClient,
) -> None:
    await api.post(f"{NAMESPACE}/releases", json=release("r-1"))
    await api.post(f"{NAMESPACE}/fleets", json=fleet())
    answer = await api.delete(f"{NAMESPACE}/releases/r-1")
    assert "fleet cameras" in failed(answer, 422, "Invalid")["message"]
    await api.put(f"{NAMESPACE}/fleets/cameras", json=fleet(release="r-2"))
    assert (await api.delete(f"{NAMESPACE}/releases/r-1")).status_code == 200
