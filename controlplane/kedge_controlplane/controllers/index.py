# SPDX-License-Identifier: Apache-2.0
"""Which fleets a change concerns, from memory: no query per change.

The index knows the fleets that the loop listed, kept up by the changes it then saw. It
only routes; what a fleet is gets read when it is reconciled. Used from one event loop.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kedge_controlplane.model.component_version import ComponentVersion
from kedge_controlplane.model.configset import ConfigSet
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.model_version import ModelVersion
from kedge_controlplane.model.release import Release
from kedge_controlplane.model.rollout import Rollout
from kedge_controlplane.model.selector import LabelSelector
from kedge_controlplane.model.template_version import TemplateVersion
from kedge_controlplane.reconcile.loop import Key
from kedge_controlplane.store.watch import Event, EventType

_REFERENCED: Final = (Release, ComponentVersion, ModelVersion, ConfigSet)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    uid: str
    selector: LabelSelector


class FleetIndex:
    """Selectors of all fleets by namespace."""

    def __init__(self) -> None:
        self._fleets: dict[Key, _Entry] = {}

    def replace(self, fleets: Iterable[Fleet]) -> None:
        """Start over from a list."""
        self._fleets = {_key(fleet): _entry(fleet) for fleet in fleets}

    def keys_of(self, event: Event[Resource]) -> Iterator[Key]:
        """Name the fleets that a change concerns."""
        namespace = event.record.namespace
        if event.cls is Fleet:
            yield from self._fleet_changed(event)
        elif event.cls is Device:
            yield from self._selecting(namespace, event.record.labels)
            yield from self._selecting(namespace, event.previous_labels or {})
            if fleet := (event.record.spec or {}).get("fleet"):
                yield Key(namespace, fleet)
        elif event.cls in (Rollout, TemplateVersion):
            yield Key(namespace, (event.record.spec or {})["fleet"])
        elif event.cls in _REFERENCED:
            yield from self._in_namespace(namespace)

    def _fleet_changed(self, event: Event[Resource]) -> Iterator[Key]:
        key = Key(event.record.namespace, event.record.name)
        before = self._fleets.get(key)
        if event.type is EventType.DELETED:
            self._fleets.pop(key, None)
        elif isinstance(fleet := event.object, Fleet):
            self._fleets[key] = _entry(fleet)
        yield key
        if self._fleets.get(key) != before:  # others may gain or lose devices
            yield from self._in_namespace(key.namespace)

    def _in_namespace(self, namespace: str) -> list[Key]:
        return [key for key in self._fleets if key.namespace == namespace]

    def _selecting(self, namespace: str, labels: Mapping[str, str]) -> list[Key]:
        return [
            key
            for key in self._in_namespace(namespace)
            if self._fleets[key].selector.matches(dict(labels))
        ]


def _key(fleet: Fleet) -> Key:
    return Key(fleet.namespace, fleet.name)


def _entry(fleet: Fleet) -> _Entry:
    return _Entry(uid=fleet.metadata.uid or "", selector=fleet.spec.selector)
