# SPDX-License-Identifier: Apache-2.0
"""What clients ask before anything else: which groups, kinds and version there are.

Clients that ask for aggregated discovery get these older documents and go on with them.
"""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from kedge_controlplane.api.answers import JsonResponse
from kedge_controlplane.model.meta import API_VERSION, GROUP, VERSION
from kedge_controlplane.model.registry import KINDS, Kind

_LIKE: Final = ("1", "32")
"""The Kubernetes release whose conventions we follow.

Clients compare it with theirs.
"""

_READS: Final = ["get", "list", "watch"]
_GROUP_VERSION: Final = {"groupVersion": API_VERSION, "version": VERSION}
_GROUP: Final[dict[str, Any]] = {
    "name": GROUP,
    "versions": [_GROUP_VERSION],
    "preferredVersion": _GROUP_VERSION,
}


def resources() -> list[dict[str, Any]]:
    """Return the entries of every kind, its status, and what can only be created."""
    entries = [entry for kind in KINDS for entry in _entries(kind)]
    entries.append(
        {
            "name": "enrollmenttokens",
            "singularName": "enrollmenttoken",
            "namespaced": True,
            "kind": "EnrollmentToken",
            "verbs": ["create"],
        }
    )
    return entries


def _entries(kind: Kind) -> list[dict[str, Any]]:
    entry: dict[str, Any] = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": True,
        "kind": kind.kind,
        "verbs": _verbs(kind),
        "shortNames": list(kind.short_names),
        "categories": ["kedge"],
    }
    if not kind.has_status:
        return [entry]
    status = {
        "name": f"{kind.plural}/status",
        "singularName": "",
        "namespaced": True,
        "kind": kind.kind,
        "verbs": ["get"],
    }
    return [entry, status]


def _verbs(kind: Kind) -> list[str]:
    rights = kind.operators
    writes = (
        ("create", rights.create),
        ("delete", rights.delete),
        ("patch", rights.update),
        ("update", rights.update),
    )
    return sorted([*_READS, *(verb for verb, allowed in writes if allowed)])


async def api_versions(request: Request) -> Response:
    """/api: the core group, of which we have nothing."""
    del request
    return JsonResponse(
        {"kind": "APIVersions", "versions": [], "serverAddressByClientCIDRs": []}
    )


async def group_list(request: Request) -> Response:
    """/apis: the groups."""
    del request
    return JsonResponse(
        {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_GROUP]}
    )


async def group(request: Request) -> Response:
    """/apis/kedge.dev: the group's versions."""
    del request
    return JsonResponse({"kind": "APIGroup", "apiVersion": "v1", **_GROUP})


async def resource_list(request: Request) -> Response:
    """/apis/kedge.dev/v1alpha1: the kinds."""
    del request
    return JsonResponse(
        {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": API_VERSION,
            "resources": resources(),
        }
    )


def version_document(version: str) -> dict[str, str]:
    """/version, with our own version as build metadata."""
    major, minor = _LIKE
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"v{major}.{minor}.0+kedge.{version}",
        "platform": "linux",
    }
