# SPDX-License-Identifier: Apache-2.0
"""Create, read, replace, patch and delete through the API."""

from typing import Any

import httpx
import pytest
import yaml

from kedge_controlplane.model.device import Device
from kedge_controlplane.store.store import Store
from tests.unit.controlplane.api.admission import PickyAdmission
from tests.unit.controlplane.api.manifests import device, document, fleet, release

FLEETS = "/namespaces/default/fleets"
DEVICES = "/namespaces/default/devices"
RELEASES = "/namespaces/default/releases"
MERGE = {"content-type": "application/merge-patch+json"}


def failed(answer: httpx.Response, code: int, reason: str) -> dict[str, Any]:
    status: dict[str, Any] = answer.json()
    assert (answer.status_code, status["reason"]) == (code, reason), answer.text
    assert status["kind"] == "Status"
    assert status["code"] == code
    return status


async def test_what_is_created_can_be_read(api: httpx.AsyncClient) -> None:
    answer = await api.post(FLEETS, json=fleet(tier="gold"))
    assert answer.status_code == 201
    made = answer.json()
    assert made["metadata"]["namespace"] == "default"
    assert made["metadata"]["generation"] == 1
    assert made["spec"]["rolloutPolicy"]["onError"] == "Pause"
    assert "annotations" not in made["metadata"]
    again = await api.get(f"{FLEETS}/cameras")
    assert again.json() == made
    assert (await api.get(f"{FLEETS}/cameras/status")).json() == made


async def test_yaml_is_as_good_as_json(api: httpx.AsyncClient) -> None:
    answer = await api.post(
        FLEETS,
        content=yaml.safe_dump(fleet()),
        headers={"content-type": "application/yaml"},
    )
    assert answer.status_code == 201, answer.text


async def test_a_name_is_made_up_from_its_prefix(api: httpx.AsyncClient) -> None:
    manifest = fleet()
    manifest["metadata"] = {"generateName": "cameras-"}
    first, second = [await api.post(FLEETS, json=manifest) for _ in range(2)]
    names = {answer.json()["metadata"]["name"] for answer in (first, second)}
    assert len(names) == 2
    assert all(name.startswith("cameras-") and len(name) == 13 for name in names)
    manifest["metadata"] = {}
    status = failed(await api.post(FLEETS, json=manifest), 422, "Invalid")
    assert status["details"]["causes"][0]["field"] == "metadata.name"


async def test_the_url_and_the_document_must_agree(api: httpx.AsyncClient) -> None:
    manifest = fleet()
    manifest["metadata"]["namespace"] = "other"
    status = failed(await api.post(FLEETS, json=manifest), 400, "BadRequest")
    assert "expected default as in the URL, found 'other'" in status["message"]
    failed(await api.post(FLEETS, json=device()), 400, "BadRequest")
    wrong_version = fleet() | {"apiVersion": "v1"}
    failed(await api.post(FLEETS, json=wrong_version), 400, "BadRequest")
    await api.post(FLEETS, json=fleet())
    failed(await api.put(f"{FLEETS}/cameras", json=fleet("other")), 400, "BadRequest")


async def test_errors_name_every_field(api: httpx.AsyncClient) -> None:
    manifest = fleet()
    manifest["spec"] = {
        "selector": {},
        "template": {"spec": {"model": "r", "limits": {"poolSize": "many"}}},
        "rolloutPolicy": {
            "onError": "Explode",
            "deviceSelection": {"sequence": [{"limit": 1}, {"limit": [1]}]},
        },
    }
    status = failed(await api.post(FLEETS, json=manifest), 422, "Invalid")
    causes = {cause["field"]: cause for cause in status["details"]["causes"]}
    assert causes["spec.template.spec.model"]["message"] == "unknown field"
    required = causes["spec.template.spec.release"]
    assert required["reason"] == "FieldValueRequired"
    assert required["message"] == "expected a value, found none"
    pool_size = causes["spec.template.spec.limits.poolSize"]["message"]
    assert pool_size == 'expected an integer, found "many"'
    on_error = causes["spec.rolloutPolicy.onError"]
    assert on_error["reason"] == "FieldValueNotSupported"
    limit = causes["spec.rolloutPolicy.deviceSelection.sequence[1].limit"]
    assert limit["message"].startswith("expected a number of devices")
    assert len(causes) == 5
    assert status["details"] | {"causes": []} == {
        "name": "cameras",
        "group": "kedge.dev",
        "kind": "fleets",
        "causes": [],
    }
    assert "spec.template.spec.model: unknown field" in status["message"]


@pytest.mark.parametrize(
    "metadata",
    [None, [], "x", {"name": "UPPER"}, {"name": 5}, {"labels": {"a b": "c"}}],
    ids=str,
)
async def test_metadata_of_any_shape_is_answered(
    api: httpx.AsyncClient, metadata: object
) -> None:
    manifest = fleet() | {"metadata": metadata}
    assert (await api.post(FLEETS, json=manifest)).status_code == 422


async def test_admission_has_the_last_word(
    api: httpx.AsyncClient, admission: PickyAdmission
) -> None:
    answer = await api.post(FLEETS, json=fleet(refuse="yes"))
    status = failed(answer, 422, "Invalid")
    assert status["details"]["causes"][0]["field"] == "spec.x"
    failed(await api.get(f"{FLEETS}/cameras"), 404, "NotFound")
    await api.post(FLEETS, json=fleet())
    await api.put(f"{FLEETS}/cameras", json=fleet(release="r-2"))
    new, old = admission.seen[-1]
    assert old is not None
    assert old.to_wire()["spec"]["template"]["spec"]["release"] == "r-1"
    assert new.to_wire()["spec"]["template"]["spec"]["release"] == "r-2"


async def test_replace_changes_spec_and_ignores_status(
    api: httpx.AsyncClient,
) -> None:
    made = (await api.post(FLEETS, json=fleet())).json()
    changed = fleet(release="r-2") | {"status": {"rollout": "forged"}}
    answer = await api.put(f"{FLEETS}/cameras", json=changed)
    assert answer.status_code == 200
    now = answer.json()
    assert now["metadata"]["generation"] == 2
    assert now["status"] == made["status"]


async def test_a_status_is_not_for_operators(api: httpx.AsyncClient) -> None:
    made = (await api.post(FLEETS, json=fleet())).json()
    forged = fleet() | {"status": {"rollout": "cameras-1"}}
    answer = await api.put(f"{FLEETS}/cameras/status", json=forged)
    status = failed(answer, 403, "Forbidden")
    assert "controllers do" in status["message"]
    answer = await api.patch(f"{FLEETS}/cameras/status", json={}, headers=MERGE)
    failed(answer, 403, "Forbidden")
    assert (await api.get(f"{FLEETS}/cameras")).json() == made


async def test_kinds_without_status_have_no_such_address(
    api: httpx.AsyncClient,
) -> None:
    await api.post(RELEASES, json=release())
    for method in ("GET", "PUT"):
        answer = await api.request(method, f"{RELEASES}/r-1/status", json=release())
        failed(answer, 404, "NotFound")
    with_status = release("r-2") | {"status": {}}
    failed(await api.post(RELEASES, json=with_status), 422, "Invalid")


async def test_a_stale_write_is_a_conflict(api: httpx.AsyncClient) -> None:
    made = (await api.post(FLEETS, json=fleet())).json()
    await api.put(f"{FLEETS}/cameras", json=fleet(release="r-2"))
    failed(await api.put(f"{FLEETS}/cameras", json=made), 409, "Conflict")
    version = {"resourceVersion": made["metadata"]["resourceVersion"]}
    patch = {"metadata": version | {"labels": {"a": "b"}}}
    answer = await api.patch(f"{FLEETS}/cameras", json=patch, headers=MERGE)
    failed(answer, 409, "Conflict")


async def test_a_patch_between_two_others_is_applied_to_what_it_finds(
    api: httpx.AsyncClient, store: Store, admission: PickyAdmission
) -> None:
    await api.post(DEVICES, json=device())
    admit, others = admission.admit, [1, 2]

    async def interfere(new: Any, old: Any) -> Any:
        if others:
            stored = await store.get(Device, "default", "d-1")
            stored.metadata.labels[f"other-{others.pop()}"] = "x"
            await store.update(stored)
        return await admit(new, old)

    admission.admit = interfere  # type: ignore[method-assign]  # a writer in between
    patch = {"metadata": {"labels": {"mine": "y"}}}
    answer = await api.patch(f"{DEVICES}/d-1", json=patch, headers=MERGE)
    labels = answer.json()["metadata"]["labels"]
    assert labels == {"other-1": "x", "other-2": "x", "mine": "y"}


async def test_a_merge_patch_sets_and_removes(api: httpx.AsyncClient) -> None:
    await api.post(DEVICES, json=device(site="berlin", rank="1"))
    patch = {"metadata": {"labels": {"site": None, "new": "x"}}}
    answer = await api.patch(f"{DEVICES}/d-1", json=patch, headers=MERGE)
    assert answer.json()["metadata"]["labels"] == {"rank": "1", "new": "x"}
    renamed = {"metadata": {"name": "d-2"}}
    answer = await api.patch(f"{DEVICES}/d-1", json=renamed, headers=MERGE)
    failed(answer, 400, "BadRequest")


@pytest.mark.parametrize(
    "kind",
    [
        "application/json-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        "application/json",
    ],
)
async def test_other_patches_are_refused_by_type(
    api: httpx.AsyncClient, kind: str
) -> None:
    await api.post(DEVICES, json=device())
    answer = await api.patch(f"{DEVICES}/d-1", json={}, headers={"content-type": kind})
    status = failed(answer, 415, "UnsupportedMediaType")
    assert "application/merge-patch+json" in status["message"]


async def test_writing_the_same_again_is_no_change(api: httpx.AsyncClient) -> None:
    made = (await api.post(FLEETS, json=fleet())).json()
    answer = await api.put(f"{FLEETS}/cameras", json=fleet())
    assert answer.json() == made
    answer = await api.patch(f"{FLEETS}/cameras", json={}, headers=MERGE)
    assert answer.json() == made


async def test_an_immutable_spec_names_the_fields_that_changed(
    api: httpx.AsyncClient,
) -> None:
    await api.post(RELEASES, json=release())
    labelled = release()
    labelled["metadata"]["labels"] = {"a": "b"}
    assert (await api.put(f"{RELEASES}/r-1", json=labelled)).status_code == 200
    answer = await api.put(f"{RELEASES}/r-1", json=release(model="digits-2"))
    status = failed(answer, 422, "Invalid")
    assert status["details"]["causes"] == [
        {
            "reason": "FieldValueInvalid",
            "message": "field is immutable",
            "field": "spec.workloads",
        }
    ]


async def test_a_dry_run_says_what_would_be_and_keeps_nothing(
    api: httpx.AsyncClient, store: Store
) -> None:
    dry = {"dryRun": "All"}
    answer = await api.post(FLEETS, json=fleet(), params=dry)
    assert answer.status_code == 201
    assert answer.json()["metadata"]["uid"]
    failed(await api.get(f"{FLEETS}/cameras"), 404, "NotFound")
    made = (await api.post(FLEETS, json=fleet())).json()
    failed(await api.post(FLEETS, json=fleet(), params=dry), 409, "AlreadyExists")
    answer = await api.put(f"{FLEETS}/cameras", json=fleet(release="r-2"), params=dry)
    assert answer.json()["metadata"]["generation"] == 2
    answer = await api.delete(f"{FLEETS}/cameras", params=dry)
    assert answer.json()["status"] == "Success"
    assert (await api.get(f"{FLEETS}/cameras")).json() == made
    assert await store.revision() == 1
    failed(
        await api.delete(f"{FLEETS}/cameras", params={"dryRun": "Some"}),
        400,
        "BadRequest",
    )


async def test_delete_answers_what_is_gone(api: httpx.AsyncClient) -> None:
    made = (await api.post(FLEETS, json=fleet())).json()
    uid = made["metadata"]["uid"]
    answer = await api.request(
        "DELETE", f"{FLEETS}/cameras", json={"preconditions": {"uid": "other"}}
    )
    failed(answer, 409, "Conflict")
    answer = await api.request(
        "DELETE", f"{FLEETS}/cameras", json={"propagationPolicy": "Background"}
    )
    assert answer.json()["details"]["uid"] == uid
    failed(await api.delete(f"{FLEETS}/cameras"), 404, "NotFound")


async def test_finalizers_hold_what_is_deleted(api: httpx.AsyncClient) -> None:
    held = device()
    held["metadata"]["finalizers"] = ["kedge.dev/x"]
    await api.post(DEVICES, json=held)
    answer = await api.delete(f"{DEVICES}/d-1")
    assert answer.json()["metadata"]["deletionTimestamp"]
    patch = {"metadata": {"finalizers": None}}
    await api.patch(f"{DEVICES}/d-1", json=patch, headers=MERGE)
    failed(await api.get(f"{DEVICES}/d-1"), 404, "NotFound")


async def test_a_config_keeps_its_values_exactly(api: httpx.AsyncClient) -> None:
    values: dict[str, Any] = {
        "threshold": None,
        "camelCase": {"snake_case": [1, None, {}]},
        "é": 1.5,
    }
    spec = {
        "config": "k",
        "version": "1",
        "artifact": {"sha256": "00" * 32, "length": 1},
        "statement": {
            "payloadType": "t",
            "payload": "",
            "signatures": [{"keyid": "k", "sig": "s"}],
        },
        "values": values,
        "schema": {"type": "object", "properties": {"threshold": True}},
    }
    manifest = document("ConfigSet", "k-1", spec=spec)
    path = "/namespaces/default/configsets"
    assert (await api.post(path, json=manifest)).status_code == 201
    stored = (await api.get(f"{path}/k-1")).json()["spec"]
    assert stored["values"] == values
    assert stored["schema"] == spec["schema"]
    listed = (await api.get(path)).json()["items"][0]["spec"]
    assert listed == stored
