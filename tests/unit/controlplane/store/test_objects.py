# SPDX-License-Identifier: Apache-2.0
"""The rules of writing one object."""

import pytest

from kedge_controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
)
from kedge_controlplane.model.device import Device, SummaryStatus
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.store.store import Store
from tests.unit.controlplane.store.objects import device, fleet


async def test_create_sets_what_the_server_decides(store: Store) -> None:
    made = await store.create(device("d-1", site="berlin"))
    assert made.metadata.uid
    assert made.metadata.generation == 1
    assert made.metadata.resource_version == "1"
    assert made.metadata.creation_timestamp is not None
    assert made.metadata.labels == {"site": "berlin"}
    assert await store.get(Device, "default", "d-1") == made


async def test_a_name_is_taken_once_per_namespace(store: Store) -> None:
    await store.create(device("d-1"))
    await store.create(device("d-1", namespace="other"))
    with pytest.raises(AlreadyExistsError, match='"d-1" already exists'):
        await store.create(device("d-1"))


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError, match='"d-1" not found'):
        await store.get(Device, "default", "d-1")
    with pytest.raises(NotFoundError):
        await store.update(device("d-1"))
    with pytest.raises(NotFoundError):
        await store.update_status(device("d-1"))
    with pytest.raises(NotFoundError):
        await store.delete(Device, "default", "d-1")


async def test_generation_counts_changes_of_spec_only(store: Store) -> None:
    made = await store.create(fleet("f"))
    made.metadata.labels = {"tier": "gold"}
    labelled = await store.update(made)
    assert labelled.metadata.generation == 1
    labelled.spec.template.spec.release = "r-2"
    changed = await store.update(labelled)
    assert changed.metadata.generation == 2
    assert changed.metadata.resource_version == "3"


async def test_update_keeps_the_status_and_status_writes_keep_the_rest(
    store: Store,
) -> None:
    made = await store.create(fleet("f"))
    made.status.rollout = "f-1"
    made.spec.template.spec.release = "r-2"
    after_status = await store.update_status(made)
    assert after_status.status.rollout == "f-1"
    assert after_status.spec.template.spec.release == "r-1"
    assert after_status.metadata.generation == 1
    after_status.status.rollout = "ignored"
    after_spec = await store.update(after_status)
    assert after_spec.status.rollout == "f-1"


async def test_a_stale_resource_version_is_a_conflict(store: Store) -> None:
    made = await store.create(fleet("f"))
    stale = made.model_copy(deep=True)
    made.spec.template.spec.release = "r-2"
    await store.update(made)
    with pytest.raises(ConflictError, match="expected resourceVersion 2, found 1"):
        await store.update(stale)
    with pytest.raises(ConflictError):
        await store.update_status(stale)
    with pytest.raises(ConflictError):
        await store.delete(Fleet, "default", "f", resource_version="1")


async def test_without_a_resource_version_the_last_writer_wins(store: Store) -> None:
    await store.create(fleet("f"))
    changed = await store.update(fleet("f", release="r-2"))
    assert changed.spec.template.spec.release == "r-2"


async def test_an_object_made_anew_is_not_the_old_one(store: Store) -> None:
    old = await store.create(fleet("f"))
    await store.delete(Fleet, "default", "f")
    await store.create(fleet("f"))
    old.metadata.resource_version = None
    with pytest.raises(ConflictError, match="expected uid"):
        await store.update(old)


async def test_writing_what_is_there_changes_nothing(store: Store) -> None:
    made = await store.create(device("d-1", site="berlin"))
    watch = store.watch(Device)
    assert await store.update(made) == made
    assert await store.update_status(made) == made
    assert await store.revision() == 1
    assert await watch.next(0) is None


async def test_finalizers_hold_a_deleted_object(store: Store) -> None:
    held = device("d-1")
    held.metadata.finalizers = ["kedge.dev/revoke"]
    await store.create(held)
    marked = await store.delete(Device, "default", "d-1")
    assert marked.metadata.deletion_timestamp is not None
    again = await store.delete(Device, "default", "d-1")
    assert again == marked
    marked.metadata.finalizers = []
    await store.update(marked)
    with pytest.raises(NotFoundError):
        await store.get(Device, "default", "d-1")


async def test_objects_returned_share_nothing(store: Store) -> None:
    made = await store.create(device("d-1"))
    made.status.summary.status = SummaryStatus.ONLINE
    made.metadata.labels["changed"] = "here"
    stored = await store.get(Device, "default", "d-1")
    assert stored.status.summary.status is SummaryStatus.UNKNOWN
    assert stored.metadata.labels == {}
