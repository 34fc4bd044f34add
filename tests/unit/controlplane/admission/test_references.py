# SPDX-License-Identifier: Apache-2.0
"""Releases and fleets: dangling references and combinations that do not fit."""

import pytest

from kedge_controlplane.admission.admission import Admission
from kedge_controlplane.errors import Cause, InvalidError
from kedge_controlplane.model.artifact import Tensor
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.release import Release
from kedge_controlplane.store.store import Store
from tests.unit.controlplane.admission.publisher import Publisher


def release(**changes: str) -> Release:
    workload = {
        "name": "digits",
        "component": "classifier-1",
        "model": "digits-1",
        "config": "digits-1",
    }
    return Release.model_validate(
        {
            "metadata": {"name": "digits-1", "namespace": "default"},
            "spec": {"workloads": [workload | changes]},
        }
    )


def fleet(*batches: str, name: str = "digits-1") -> Fleet:
    sequence = [{"name": batch, "limit": 1} for batch in batches]
    return Fleet.model_validate(
        {
            "metadata": {"name": "digits", "namespace": "default"},
            "spec": {
                "selector": {},
                "template": {"spec": {"release": name}},
                "rolloutPolicy": {"deviceSelection": {"sequence": sequence}},
            },
        }
    )


async def refusal(admission: Admission, resource: Resource) -> tuple[Cause, ...]:
    with pytest.raises(InvalidError) as caught:
        await admission.admit(resource, None)
    return caught.value.causes


@pytest.fixture
async def versions(store: Store, publisher: Publisher) -> None:
    await store.create(publisher.component())
    await store.create(publisher.model())
    await store.create(publisher.config())


@pytest.mark.usefixtures("versions")
async def test_a_release_of_what_fits_is_admitted(admission: Admission) -> None:
    await admission.admit(release(), None)


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize("member", ["component", "model", "config"])
async def test_a_dangling_reference_is_named(admission: Admission, member: str) -> None:
    (cause,) = await refusal(admission, release(**{member: "nowhere-1"}))
    assert cause.field == f"spec.workloads[0].{member}"
    assert cause.reason == "FieldValueNotFound"
    assert "'nowhere-1'" in cause.message


async def test_every_dangling_reference_is_named(admission: Admission) -> None:
    causes = await refusal(admission, release())
    assert [cause.field for cause in causes] == [
        "spec.workloads[0].component",
        "spec.workloads[0].model",
        "spec.workloads[0].config",
    ]


async def test_a_model_that_does_not_fit_the_component_is_refused(
    admission: Admission, store: Store, publisher: Publisher
) -> None:
    component = publisher.component()
    component.spec.model_inputs = [Tensor(datatype="INT8", shape=[-1] * 4)]
    await store.create(component)
    await store.create(publisher.model())
    await store.create(publisher.config())
    (cause,) = await refusal(admission, release())
    assert cause.field == "spec.workloads[0].model"
    assert "expects * INT8[?,?,?,?], the model has image FP32[?,1,8,8]" in cause.message


async def test_the_release_of_a_fleet_must_exist(
    admission: Admission, store: Store
) -> None:
    (cause,) = await refusal(admission, fleet())
    assert cause.field == "spec.template.spec.release"
    await store.create(release())
    await admission.admit(fleet(), None)


async def test_a_reference_reaches_no_other_namespace(
    admission: Admission, store: Store
) -> None:
    elsewhere = release()
    elsewhere.metadata.namespace = "other"
    await store.create(elsewhere)
    (cause,) = await refusal(admission, fleet())
    assert cause.field == "spec.template.spec.release"


async def test_batches_have_names_of_their_own(
    admission: Admission, store: Store
) -> None:
    await store.create(release())
    await admission.admit(fleet("canary", "half", "", ""), None)
    (cause,) = await refusal(admission, fleet("canary", "canary"))
    assert cause.field == "spec.rolloutPolicy.deviceSelection.sequence[1].name"
