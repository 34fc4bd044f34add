# SPDX-License-Identifier: Apache-2.0
"""Watches over HTTP: newline-delimited JSON until the time is up, or the server drains.

    list at revision r ──▶ ADDED … ──▶ events after r, BOOKMARKs between ──▶ end

An object that leaves the selector is DELETED for this watch, one that enters it is
ADDED. A client that reads too slowly gets the ERROR event `Expired` and lists again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import orjson

from kedge_controlplane.api.parameters import ListParameters
from kedge_controlplane.api.table import table
from kedge_controlplane.errors import GoneError
from kedge_controlplane.model.meta import API_VERSION
from kedge_controlplane.model.registry import Kind
from kedge_controlplane.store.page import Query
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.watch import Event, EventType, Watch

BOOKMARK_S: Final = 10.0  # shorter than proxies' idle timeouts
_INITIAL_END: Final = {"k8s.io/initial-events-end": "true"}


class Streams:
    """Open watches, so that a server that stops can end them politely."""

    def __init__(self) -> None:
        self._open: set[Watch[Any]] = set()
        self._draining = False

    @contextmanager
    def keep(self, watch: Watch[Any]) -> Iterator[None]:
        """Hold a watch while it is streamed; it is closed at the end."""
        self._open.add(watch)
        if self._draining:
            watch.close()
        try:
            yield
        finally:
            self._open.discard(watch)
            watch.close()

    def drain(self) -> None:
        """End every stream, and those that begin later at once."""
        self._draining = True
        for watch in self._open:
            watch.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a watch is shown."""

    kind: Kind
    include: str | None  # None: whole objects; else rows of a Table
    clock: Callable[[], datetime]

    def line(self, what: str, document: Mapping[str, Any], *, headed: bool) -> bytes:
        """One event of the stream."""
        shown: Mapping[str, Any] = document
        if self.include is not None:
            version = document["metadata"]["resourceVersion"]
            shown = table(
                self.kind,
                [document],
                metadata={"resourceVersion": version},
                include=self.include,
                now=self.clock(),
                headed=headed,
            )
        return orjson.dumps({"type": what, "object": shown}) + b"\n"

    def bookmark(self, revision: int, annotations: Mapping[str, str]) -> bytes:
        """An event that says how far the stream is; Tables do without."""
        if self.include is not None:
            return b""
        metadata: dict[str, Any] = {
            "resourceVersion": str(revision),
            "creationTimestamp": None,
        }
        if annotations:
            metadata["annotations"] = annotations
        document = {
            "kind": self.kind.kind,
            "apiVersion": API_VERSION,
            "metadata": metadata,
        }
        return orjson.dumps({"type": "BOOKMARK", "object": document}) + b"\n"


async def begin(
    store: Store, streams: Streams, parameters: ListParameters, view: View
) -> AsyncIterator[bytes]:
    """Open a watch and return its lines.

    Raises GoneError if it begins before the log, or after everything there is: then
    the database is an older one than the client saw.
    """
    initial: list[dict[str, Any]] = []
    since = parameters.since
    if since is None:
        query = replace(parameters.query, limit=None, continue_token="")
        page = await store.documents(view.kind.model, query)
        initial, since = list(page.items), page.resource_version
    elif since > (newest := await store.revision()):
        raise GoneError(f"too new resource version: {since} ({newest}): list again")
    watch = store.watch(view.kind.model, since=since)
    return _lines(streams, watch, initial, parameters, view)


async def _lines(
    streams: Streams,
    watch: Watch[Any],
    initial: list[dict[str, Any]],
    parameters: ListParameters,
    view: View,
) -> AsyncIterator[bytes]:
    with streams.keep(watch):
        headed = True
        for document in initial:
            yield view.line(EventType.ADDED, document, headed=headed)
            headed = False
        if parameters.initial_events:
            yield view.bookmark(watch.resource_version, _INITIAL_END)
        try:
            async for line in _followed(watch, parameters, view, headed=headed):
                yield line
        except GoneError as error:
            yield orjson.dumps({"type": "ERROR", "object": error.to_status()}) + b"\n"


async def _followed(
    watch: Watch[Any], parameters: ListParameters, view: View, *, headed: bool
) -> AsyncIterator[bytes]:
    clock = asyncio.get_running_loop().time
    end, sent = clock() + parameters.timeout_s, clock()
    while (left := end - clock()) > 0:
        due = sent + BOOKMARK_S - clock() if parameters.bookmarks else left
        event = await watch.next(max(0.0, min(left, due)))
        what = None if event is None else seen_as(event, parameters.query)
        if event is not None and what is not None:
            yield view.line(what, event.document, headed=headed)
            headed, sent = False, clock()
        elif event is None and watch.closed:
            return
        elif parameters.bookmarks and clock() >= sent + BOOKMARK_S:
            # Also while others' events go by: the client's position moves with them.
            yield view.bookmark(watch.resource_version, {})
            sent = clock()


def seen_as(event: Event[Any], query: Query) -> EventType | None:
    """What an event is to somebody who sees only what `query` selects.

    None: nothing.
    """
    record = event.record
    if query.namespace not in (None, record.namespace):
        return None
    if query.name not in (None, record.name):
        return None
    selector, old = query.selector, event.previous_labels
    was = old is not None and selector.matches(dict(old))
    is_now = event.type is not EventType.DELETED and selector.matches(
        dict(record.labels)
    )
    if is_now:
        return EventType.MODIFIED if was else EventType.ADDED
    return EventType.DELETED if was else None
