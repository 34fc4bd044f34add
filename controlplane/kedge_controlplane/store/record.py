# SPDX-License-Identifier: Apache-2.0
"""Between rows, wire documents and objects; nothing here does I/O.

A row keeps the wire form, so a list is answered without building an object per row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from sqlalchemy import RowMapping

from kedge_controlplane.model.meta import API_VERSION, Resource

T = TypeVar("T", bound=Resource)

_KEPT: Final = ("labels", "annotations", "finalizers", "ownerReferences")
"""Metadata that its writers own; the rest is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One stored object. Its dictionaries are shared: never change them."""

    uid: str
    namespace: str
    name: str
    generation: int
    resource_version: int
    created_at: datetime
    deletion_timestamp: datetime | None
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any] | None
    status: Mapping[str, Any] | None

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.metadata.get("labels", {})
        return labels

    @property
    def finalizers(self) -> list[str]:
        finalizers: list[str] = self.metadata.get("finalizers", [])
        return finalizers


def to_row(record: Record) -> dict[str, Any]:
    return {column: getattr(record, column) for column in Record.__slots__}


def from_row(row: RowMapping) -> Record:
    return Record(**row)


def owned_metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a document's metadata that its writer decides."""
    metadata = document["metadata"]
    return {key: metadata[key] for key in _KEPT if metadata.get(key)}


def to_document(kind: str, record: Record) -> dict[str, Any]:
    """The object's wire form."""
    metadata: dict[str, Any] = {
        "name": record.name,
        "namespace": record.namespace,
        "uid": record.uid,
        "resourceVersion": str(record.resource_version),
        "generation": record.generation,
        "creationTimestamp": _rfc3339(record.created_at),
    }
    if record.deletion_timestamp is not None:
        metadata["deletionTimestamp"] = _rfc3339(record.deletion_timestamp)
    document: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": metadata | dict(record.metadata),
    }
    if record.spec is not None:
        document["spec"] = record.spec
    if record.status is not None:
        document["status"] = record.status
    return document


def to_object(cls: type[T], record: Record) -> T:
    """A fresh instance that shares nothing with the record's siblings."""
    return cls.model_validate(to_document(cls.__name__, record))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
