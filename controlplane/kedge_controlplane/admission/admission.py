# SPDX-License-Identifier: Apache-2.0
"""Decides whether an object may be stored, beyond what its schema says.

Asked before every write that comes from outside, after the schema. It reads the store
and the blobs and changes neither, so an interruption leaves nothing behind. Two writes
may be admitted at once: what one of them names can be gone when the other is stored,
and controllers live with that. Changes that leave the specification alone pass unseen.
"""

from typing import Any

from kedge_controlplane.admission.causes import refusal
from kedge_controlplane.admission.publisher_keys import check_key
from kedge_controlplane.admission.releases import check_fleet, check_release
from kedge_controlplane.admission.versions import VersionAdmission
from kedge_controlplane.blobs.base import BlobStore
from kedge_controlplane.errors import Cause
from kedge_controlplane.inspection.inspector import Inspector
from kedge_controlplane.model.component_version import ComponentVersion
from kedge_controlplane.model.configset import ConfigSet
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.model_version import ModelVersion
from kedge_controlplane.model.publisher import PublisherKey
from kedge_controlplane.model.release import Release
from kedge_controlplane.store.store import Store


class Admission:
    """The one door through which objects of operators enter."""

    def __init__(
        self, store: Store, blobs: BlobStore, *, inspector: Inspector | None = None
    ) -> None:
        self._store = store
        self._versions = VersionAdmission(
            store=store, blobs=blobs, inspector=inspector or Inspector()
        )

    async def admit(self, new: Resource, old: Resource | None) -> Resource:
        """Return `new` if it may replace `old`, or be created where `old` is None.

        Raises:
            InvalidError: It may not; a cause per field says why.
            TooManyRequestsError: Too many artifacts are being looked into.
        """
        if old is not None and _spec(old) == _spec(new):
            return new
        causes = await self._check(new)
        if causes:
            raise refusal(new, causes)
        return new

    async def _check(self, new: Resource) -> list[Cause]:
        match new:
            case ComponentVersion() | ModelVersion() | ConfigSet():
                return await self._versions.check(new)
            case Release():
                return await check_release(new, self._store)
            case Fleet():
                return await check_fleet(new, self._store)
            case PublisherKey():
                return check_key(new)
        return []


def _spec(resource: Resource) -> Any:
    return getattr(resource, "spec", None)
