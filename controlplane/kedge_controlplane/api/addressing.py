# SPDX-License-Identifier: Apache-2.0
"""What a URL names, and how a document is made to agree with it."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from kedge_controlplane.api.answers import unknown_path
from kedge_controlplane.api.validation import check_type
from kedge_controlplane.errors import BadRequestError
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.registry import BY_PLURAL, Kind


def kind_in(request: Request) -> Kind:
    """Return the kind that the path names; raises NotFoundError."""
    kind = BY_PLURAL.get(request.path_params["plural"])
    if kind is None:
        raise unknown_path()
    return kind


def place(
    document: Mapping[str, Any], kind: Kind, *, namespace: str, name: str | None = None
) -> dict[str, Any]:
    """Return the document with its address filled in; raises BadRequestError."""
    check_type(document, kind)
    placed = dict(document)
    metadata = document.get("metadata", {})
    if not isinstance(metadata, dict):
        return placed  # validation says what is wrong with it
    address = {"namespace": namespace} | ({} if name is None else {"name": name})
    for member, expected in address.items():
        found = metadata.get(member) or expected
        if found != expected:
            raise BadRequestError(
                f"metadata.{member}: expected {expected:.253} as in the URL, "
                f"found {found!r:.260}"
            )
    return placed | {"metadata": metadata | address}


def shown(resource: Resource) -> dict[str, Any]:
    """Return the wire form of an object without empty metadata."""
    document = resource.to_wire()
    metadata = document["metadata"]
    document["metadata"] = {key: value for key, value in metadata.items() if value}
    return document
