# SPDX-License-Identifier: Apache-2.0
"""Get, list and watch of every kind, as objects or as rows of a Table."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from kedge_controlplane.api.addressing import kind_in, shown
from kedge_controlplane.api.answers import JsonResponse, unknown_path
from kedge_controlplane.api.parameters import ListParameters, read_list
from kedge_controlplane.api.streams import Streams, View, begin
from kedge_controlplane.api.table import included, table, wants_table
from kedge_controlplane.model.meta import API_VERSION
from kedge_controlplane.model.registry import Kind
from kedge_controlplane.store.page import Page
from kedge_controlplane.store.store import Store

INLINE_ROWS: Final = 500  # longer lists are rendered on a thread; the loop goes on


class Reads:
    """Handlers that change nothing."""

    def __init__(
        self, store: Store, streams: Streams, *, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._streams = streams
        self._clock = clock

    async def get(self, request: Request) -> Response:
        """One object."""
        return await self.get_of(kind_in(request), request)

    async def get_of(self, kind: Kind, request: Request) -> Response:
        """One object of a kind that the path does not tell."""
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        document = shown(await self._store.get(kind.model, namespace, name))
        if not wants_table(request):
            return JsonResponse(document)
        version = document["metadata"]["resourceVersion"]
        return JsonResponse(
            table(
                kind,
                [document],
                metadata={"resourceVersion": version},
                include=included(request),
                now=self._clock(),
            )
        )

    async def get_status(self, request: Request) -> Response:
        """One object, by the address of its status."""
        if not kind_in(request).has_status:
            raise unknown_path()
        return await self.get(request)

    async def collection(self, request: Request) -> Response:
        """A list or a watch, in one namespace or in all."""
        kind = kind_in(request)
        namespace = request.path_params.get("namespace")
        parameters = read_list(request.query_params, namespace)
        include = included(request) if wants_table(request) else None
        if parameters.watch:
            return await self._watch(kind, parameters, include)
        page = await self._store.documents(kind.model, parameters.query)
        if len(page.items) <= INLINE_ROWS:
            return _answer(self._render(kind, page, include))
        return _answer(await asyncio.to_thread(self._render, kind, page, include))

    async def _watch(
        self, kind: Kind, parameters: ListParameters, include: str | None
    ) -> Response:
        view = View(kind=kind, include=include, clock=self._clock)
        lines = await begin(self._store, self._streams, parameters, view)
        return StreamingResponse(
            lines,
            media_type="application/json",
            headers={"cache-control": "no-cache, private"},
        )

    def _render(
        self, kind: Kind, page: Page[dict[str, Any]], include: str | None
    ) -> bytes:
        metadata: dict[str, Any] = {"resourceVersion": str(page.resource_version)}
        if page.continue_token:
            metadata["continue"] = page.continue_token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
        if include is not None:
            return orjson.dumps(
                table(
                    kind,
                    page.items,
                    metadata=metadata,
                    include=include,
                    now=self._clock(),
                )
            )
        return orjson.dumps(
            {
                "kind": f"{kind.kind}List",
                "apiVersion": API_VERSION,
                "metadata": metadata,
                "items": page.items,
            }
        )


def _answer(body: bytes) -> Response:
    return Response(
        body,
        media_type="application/json",
        headers={"cache-control": "no-cache, private"},
    )
