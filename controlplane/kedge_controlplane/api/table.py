# SPDX-License-Identifier: Apache-2.0
"""Kubernetes Tables, which `kubectl get` prints: the registry's columns and the age."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from starlette.requests import Request

from kedge_controlplane.errors import BadRequestError
from kedge_controlplane.model.registry import Kind

_META: Final = "meta.k8s.io/v1"
_VERSIONS: Final = ("v=v1", "v=v1beta1")
_INCLUDES: Final = ("Metadata", "None", "Object")

_AGES: Final = (
    (timedelta(days=2), timedelta(days=1), "d"),
    (timedelta(hours=3), timedelta(hours=1), "h"),
    (timedelta(minutes=3), timedelta(minutes=1), "m"),
    (timedelta(), timedelta(seconds=1), "s"),
)
"""From an age on, the unit it is told in."""


def wants_table(request: Request) -> bool:
    """Walk the Accept header in order: the first form that we can answer wins."""
    for form in request.headers.get("accept", "").split(","):
        media, *options = (part.strip() for part in form.split(";"))
        if "as=Table" in options:
            if "g=meta.k8s.io" in options and any(v in options for v in _VERSIONS):
                return True
        elif media in ("application/json", "application/*", "*/*"):
            return False
    return False


def included(request: Request) -> str:
    """How much of each object a row carries; raises BadRequestError."""
    include: str = request.query_params.get("includeObject", "") or "Metadata"
    if include not in _INCLUDES:
        raise BadRequestError(
            f"includeObject: expected one of {', '.join(_INCLUDES)}, "
            f"found {include!r:.100}"
        )
    return include


def table(
    kind: Kind,
    documents: Sequence[Mapping[str, Any]],
    *,
    metadata: Mapping[str, Any],
    include: str,
    now: datetime,
    headed: bool = True,
) -> dict[str, Any]:
    """Return a Table with a row per document; later tables of a watch have no head."""
    return {
        "kind": "Table",
        "apiVersion": _META,
        "metadata": metadata,
        "columnDefinitions": _columns(kind) if headed else [],
        "rows": [
            {
                "cells": _cells(kind, document, now),
                "object": _row_object(document, include),
            }
            for document in documents
        ],
    }


def _columns(kind: Kind) -> list[dict[str, Any]]:
    def column(
        name: str, *, of: str = "string", form: str = "", priority: int = 0
    ) -> dict[str, Any]:
        return {
            "name": name,
            "type": of,
            "format": form,
            "description": "",
            "priority": priority,
        }

    return [
        column("Name", form="name"),
        *(column(c.name, of=c.type, priority=c.priority) for c in kind.columns),
        column("Age"),
    ]


def _cells(kind: Kind, document: Mapping[str, Any], now: datetime) -> list[Any]:
    metadata, plain = document["metadata"], dict(document)
    age = _age(metadata.get("creationTimestamp"), now)
    return [metadata["name"], *(c.value(plain) for c in kind.columns), age]


def _row_object(document: Mapping[str, Any], include: str) -> Any:
    if include == "None":
        return None
    if include == "Object":
        return document
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": _META,
        "metadata": document["metadata"],
    }


def _age(created: str | None, now: datetime) -> str:
    if created is None:
        return "<unknown>"
    moment = datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    age = max(now - moment, timedelta())
    return next(f"{age // unit}{name}" for since, unit, name in _AGES if age >= since)
