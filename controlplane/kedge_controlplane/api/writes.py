# SPDX-License-Identifier: Apache-2.0
"""Create, replace, patch and delete of every kind, within operators' rights.

An object is validated, admitted and stored under the rules of the store. Admission may
take seconds and happens outside of the transaction; what was read before it is what the
write expects to find, and otherwise it begins again. dryRun does all of it and rolls
back. A request cut off before its answer was committed whole or not at all.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from kedge_controlplane.api.addressing import kind_in, place, shown
from kedge_controlplane.api.answers import JsonResponse, unknown_path
from kedge_controlplane.api.body import read_document, read_options, read_patch
from kedge_controlplane.api.parameters import read_dry_run
from kedge_controlplane.api.patch import merge
from kedge_controlplane.api.rights import (
    check_may_create,
    check_may_delete,
    check_may_update,
    check_spec,
    status_refused,
)
from kedge_controlplane.api.seams import Admission
from kedge_controlplane.api.validation import check_immutable, invalid, to_resource
from kedge_controlplane.errors import (
    BadRequestError,
    Cause,
    ConflictError,
    ControlPlaneError,
)
from kedge_controlplane.model.meta import GROUP, MAX_NAME, Resource
from kedge_controlplane.model.registry import Kind
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction

R = TypeVar("R")
Change = Callable[[dict[str, Any]], dict[str, Any]]
"""From an object's stored form to the form that it shall have."""

ATTEMPTS: Final = 5  # against writers who get in between

_SUFFIX: Final = 5
_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"  # no words, no look-alikes


class Writes:
    """Handlers that change objects."""

    def __init__(self, store: Store, admission: Admission) -> None:
        self._store = store
        self._admission = admission

    async def create(self, request: Request) -> Response:
        """POST to a collection."""
        kind = kind_in(request)
        check_may_create(kind)
        document = named(
            place(
                await read_document(request),
                kind,
                namespace=request.path_params["namespace"],
            )
        )
        if kind.has_status:
            document.pop("status", None)
        new = to_resource(kind, document)
        if not new.name:
            raise invalid(kind, "", [_NO_NAME])
        check_spec(kind, new, None)
        new = await self._admission.admit(new, None)
        created = await self._commit(
            lambda transaction: transaction.create(new),
            dry_run=read_dry_run(request.query_params),
        )
        return JsonResponse(shown(created), 201)

    async def replace(self, request: Request) -> Response:
        """PUT of an object: spec and metadata."""
        document = await self._document_at(request)
        if kind_in(request).has_status:
            document.pop("status", None)
        return await self._modify(request, lambda _: document, document)

    async def patch(self, request: Request) -> Response:
        """PATCH of an object: spec and metadata."""
        patch = await read_patch(request)
        ours = {key: value for key, value in patch.items() if key != "status"}
        if not kind_in(request).has_status:
            ours = patch
        return await self._modify(request, lambda old: merge(old, ours), patch)

    async def write_status(self, request: Request) -> Response:
        """PUT or PATCH of a status, which is for controllers to write."""
        kind = kind_in(request)
        if not kind.has_status:
            raise unknown_path()
        raise status_refused(kind, request.path_params["name"])

    async def delete(self, request: Request) -> Response:
        """DELETE of an object: at once, or when its finalizers are gone."""
        kind = kind_in(request)
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        options = await read_options(request)
        uid, version = _preconditions(options)
        dry_run = read_dry_run(request.query_params) or bool(options.get("dryRun"))

        async def work(transaction: Transaction) -> Resource:
            await check_may_delete(kind, namespace, name, transaction)
            return await transaction.delete(
                kind.model, namespace, name, uid=uid, resource_version=version
            )

        deleted = await self._commit(work, dry_run=dry_run)
        if deleted.metadata.finalizers:
            return JsonResponse(shown(deleted))
        return JsonResponse(_deleted(kind, deleted))

    async def _document_at(self, request: Request) -> dict[str, Any]:
        return place(
            await read_document(request),
            kind_in(request),
            namespace=request.path_params["namespace"],
            name=request.path_params["name"],
        )

    async def _modify(
        self, request: Request, change: Change, asked: Mapping[str, Any]
    ) -> Response:
        kind = kind_in(request)
        check_may_update(kind)

        async def write(old: Resource, new: Resource) -> Resource:
            check_immutable(kind, old, new)
            check_spec(kind, new, old)
            new = await self._admission.admit(new, old)
            return await self._commit(
                lambda transaction: transaction.update(new),
                dry_run=read_dry_run(request.query_params),
            )

        return await self._attempt(request, change, asked, write)

    async def _attempt(
        self,
        request: Request,
        change: Change,
        asked: Mapping[str, Any],
        write: Callable[[Resource, Resource], Awaitable[Resource]],
    ) -> Response:
        """Read, change, write; again where somebody got in between.

        A caller who names a resourceVersion is told of the conflict instead.
        """
        kind = kind_in(request)
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        pinned = _resource_version(asked)

        async def once() -> Response:
            old = await self._store.get(kind.model, namespace, name)
            document = place(change(shown(old)), kind, namespace=namespace, name=name)
            new = to_resource(kind, document)
            new.metadata.resource_version = pinned or old.metadata.resource_version
            return JsonResponse(shown(await write(old, new)))

        for _ in range(ATTEMPTS - 1):
            try:
                return await once()
            except ConflictError:
                if pinned:
                    raise
        return await once()

    async def _commit(
        self, work: Callable[[Transaction], Awaitable[R]], *, dry_run: bool
    ) -> R:
        if not dry_run:
            return await self._store.write(work)
        results: list[R] = []

        async def rehearse(transaction: Transaction) -> None:
            results.append(await work(transaction))
            raise _RehearsalError

        with suppress(_RehearsalError):
            await self._store.write(rehearse)
        return results[0]


class _RehearsalError(ControlPlaneError):
    """Rolls a dry run back; never leaves this module."""


_NO_NAME: Final = Cause(
    reason="FieldValueRequired",
    message="name or generateName is required",
    field="metadata.name",
)


def named(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with a made-up name where it has only generateName."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("name"):
        return dict(document)
    prefix = metadata.get("generateName")
    if not (prefix and isinstance(prefix, str)):
        return dict(document)
    suffix = "".join(secrets.choice(_LETTERS) for _ in range(_SUFFIX))
    name = prefix[: MAX_NAME - _SUFFIX] + suffix
    return dict(document) | {"metadata": metadata | {"name": name}}


def _resource_version(document: Mapping[str, Any]) -> str | None:
    metadata = document.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) and version else None


def _preconditions(options: Mapping[str, Any]) -> tuple[str, str]:
    preconditions = options.get("preconditions") or {}
    if not isinstance(preconditions, dict):
        raise BadRequestError("preconditions: expected an object")
    uid = preconditions.get("uid") or ""
    version = preconditions.get("resourceVersion") or ""
    if not (isinstance(uid, str) and isinstance(version, str)):
        raise BadRequestError("preconditions: expected texts")
    return uid, version


def _deleted(kind: Kind, resource: Resource) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": resource.name,
            "group": GROUP,
            "kind": kind.plural,
            "uid": resource.metadata.uid,
        },
    }
