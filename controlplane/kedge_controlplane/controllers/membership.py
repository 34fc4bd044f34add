# SPDX-License-Identifier: Apache-2.0
"""Which fleet a device belongs to: the oldest one that selects it.

Pure. Age is the creation time, then the name, so every reader comes to the same answer.
A younger fleet that selects the device as well does not move it and says so in its
status.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kedge_controlplane.model.device import Device
from kedge_controlplane.model.fleet import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The devices that one fleet selects."""

    owned: tuple[Device, ...]
    contested: tuple[str, ...]  # names of those that an older fleet owns


def membership(
    fleet: Fleet, *, fleets: Iterable[Fleet], devices: Sequence[Device]
) -> Membership:
    """Sort out which of `devices`, all in the fleet's namespace, are its own."""
    older = [other for other in fleets if _age(other) < _age(fleet)]
    owned: list[Device] = []
    contested: list[str] = []
    for device in devices:
        labels = device.metadata.labels
        if not fleet.spec.selector.matches(labels):
            continue
        if any(other.spec.selector.matches(labels) for other in older):
            contested.append(device.name)
        else:
            owned.append(device)
    return Membership(owned=tuple(owned), contested=tuple(contested))


def _age(fleet: Fleet) -> tuple[datetime, str]:
    created = fleet.metadata.creation_timestamp
    return created or datetime.max.replace(tzinfo=UTC), fleet.name
