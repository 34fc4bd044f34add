# SPDX-License-Identifier: Apache-2.0
"""Reads devices for fleets; what did not change since last time is not parsed again.

Every read asks the database, so an answer is never stale. Only the parsed object is
kept, under its uid and resourceVersion: a fleet is looked at whenever one of its
devices changes, and parsing all the others each time would cost more than everything
else.
"""

from collections.abc import Sequence

from kedge_controlplane.model.device import Device
from kedge_controlplane.model.selector import LabelSelector
from kedge_controlplane.store.page import Query
from kedge_controlplane.store.store import Store


class DeviceReader:
    """Used from one event loop; bounded by the number of devices."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parsed: dict[str, tuple[str, Device]] = {}

    async def matching(
        self, namespace: str, selector: LabelSelector
    ) -> Sequence[Device]:
        """Return a namespace's devices that `selector` matches: read-only, by name."""
        query = Query(namespace=namespace, selector=selector)
        page = await self._store.documents(Device, query)
        devices: list[Device] = []
        for document in page.items:
            metadata = document["metadata"]
            uid, version = metadata["uid"], metadata["resourceVersion"]
            known = self._parsed.get(uid)
            if known is None or known[0] != version:
                known = (version, Device.model_validate(document))
                self._parsed[uid] = known
            devices.append(known[1])
        return devices

    def forget_all(self) -> None:
        """Drop what is kept, so that deleted devices do not stay for ever."""
        self._parsed.clear()
