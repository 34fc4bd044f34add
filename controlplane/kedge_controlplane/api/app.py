# SPDX-License-Identifier: Apache-2.0
"""The operator API as one ASGI application: its routes, and who may call each.

The application owns nothing but its open streams (`app.state.streams`); the store, the
blobs and the rest are its caller's to open and to close.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from kedge_controlplane.api import discovery
from kedge_controlplane.api.access import Gate, Handler
from kedge_controlplane.api.answers import EXCEPTION_HANDLERS, JsonResponse
from kedge_controlplane.api.blobs import BlobApi
from kedge_controlplane.api.enrolment import EnrolmentApi
from kedge_controlplane.api.reads import Reads
from kedge_controlplane.api.seams import (
    Admission,
    Authenticator,
    Enrolment,
    PrincipalKind,
    ServerInfo,
)
from kedge_controlplane.api.streams import Streams
from kedge_controlplane.api.writes import Writes
from kedge_controlplane.blobs.base import BlobStore
from kedge_controlplane.model.meta import API_VERSION, GROUP
from kedge_controlplane.store.store import Store

_ALL: Final = f"/apis/{API_VERSION}/{{plural}}"
_MANY: Final = f"/apis/{API_VERSION}/namespaces/{{namespace}}/{{plural}}"
_ONE: Final = f"{_MANY}/{{name}}"
_STATUS: Final = f"{_ONE}/status"
_IN_NAMESPACE: Final = f"/apis/{API_VERSION}/namespaces/{{namespace}}"
_BLOB: Final = "/blobs/sha256/{digest}"


def _utc_now() -> datetime:
    return datetime.now(UTC)


def build_app(
    *,
    store: Store,
    blobs: BlobStore,
    admission: Admission,
    enrolment: Enrolment,
    authenticator: Authenticator,
    info: ServerInfo,
    clock: Callable[[], datetime] = _utc_now,
) -> Starlette:
    """Put the API together."""
    streams = Streams()
    gate = Gate(authenticator)
    reads = Reads(store, streams, clock=clock)
    writes = Writes(store, admission)
    enrolment_api = EnrolmentApi(
        store=store, enrolment=enrolment, reads=reads, clock=clock
    )
    app = Starlette(
        routes=[
            *_probes(store),
            *_facts(gate, info),
            *_blobs(gate, BlobApi(blobs)),
            *_enrolment(gate, enrolment_api),
            *_kinds(gate, reads, writes),
        ],
        exception_handlers=dict(EXCEPTION_HANDLERS),
    )
    app.router.redirect_slashes = False  # an unknown path is a Status, not a redirect
    app.state.streams = streams
    return app


def _probes(store: Store) -> list[BaseRoute]:
    async def alive(request: Request) -> Response:
        del request
        return PlainTextResponse("ok")

    async def ready(request: Request) -> Response:
        del request
        await store.check()
        return PlainTextResponse("ok")

    return [
        Route("/livez", alive),
        Route("/healthz", ready),
        Route("/readyz", ready),
    ]


def _facts(gate: Gate, info: ServerInfo) -> list[BaseRoute]:
    async def version(request: Request) -> Response:
        del request
        return JsonResponse(discovery.version_document(info.version))

    async def facts(request: Request) -> Response:
        del request
        document: dict[str, Any] = {
            "gateway": info.gateway,
            "directorKeys": [dict(key) for key in info.director_keys],
            "version": info.version,
        }
        return JsonResponse(document)

    everybody = tuple(PrincipalKind)
    documents: dict[str, Handler] = {
        "/.well-known/kedge.json": facts,
        "/api": discovery.api_versions,
        "/api/": discovery.api_versions,
        "/apis": discovery.group_list,
        "/apis/": discovery.group_list,
        f"/apis/{GROUP}": discovery.group,
        f"/apis/{API_VERSION}": discovery.resource_list,
    }
    return [
        Route("/version", version),
        *(
            Route(path, gate.admits(handler, *everybody))
            for path, handler in documents.items()
        ),
    ]


def _blobs(gate: Gate, blobs: BlobApi) -> list[BaseRoute]:
    readers = (PrincipalKind.OPERATOR, PrincipalKind.DEVICE)
    return [
        Route(_BLOB, gate.admits(blobs.get, *readers), methods=["GET", "HEAD"]),
        Route(_BLOB, gate.admits(blobs.put, PrincipalKind.OPERATOR), methods=["PUT"]),
    ]


def _enrolment(gate: Gate, api: EnrolmentApi) -> list[BaseRoute]:
    requests = f"{_IN_NAMESPACE}/enrollmentrequests"
    both = (PrincipalKind.OPERATOR, PrincipalKind.ENROLMENT)
    return [
        Route(
            f"{_IN_NAMESPACE}/enrollmenttokens",
            gate.operators(api.create_token),
            methods=["POST"],
        ),
        Route(requests, gate.admits(api.create_request, *both), methods=["POST"]),
        Route(
            f"{requests}/{{name}}", gate.admits(api.get_request, *both), methods=["GET"]
        ),
    ]


def _kinds(gate: Gate, reads: Reads, writes: Writes) -> list[BaseRoute]:
    handlers: list[tuple[str, str, Handler]] = [
        (_ALL, "GET", reads.collection),
        (_MANY, "GET", reads.collection),
        (_MANY, "POST", writes.create),
        (_ONE, "GET", reads.get),
        (_ONE, "PUT", writes.replace),
        (_ONE, "PATCH", writes.patch),
        (_ONE, "DELETE", writes.delete),
        (_STATUS, "GET", reads.get_status),
        (_STATUS, "PUT", writes.write_status),
        (_STATUS, "PATCH", writes.write_status),
    ]
    return [
        Route(path, gate.operators(handler), methods=[method])
        for path, method, handler in handlers
    ]
