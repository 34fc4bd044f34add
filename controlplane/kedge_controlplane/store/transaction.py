# SPDX-License-Identifier: Apache-2.0
"""What one work may do to the database: reads that see its own writes, and writes.

The rules of the API's verbs are here: what each verb may change, who sets what, when a
write is a conflict and when it is nothing at all. A transaction belongs to the work
that got it and ends with it. Its changes get consecutive resourceVersions and become
events after COMMIT.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Executable, RowMapping, delete, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kedge_controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
)
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.registry import BY_KIND, kind_of
from kedge_controlplane.model.selector import LabelSelector
from kedge_controlplane.store.page import Page, Query
from kedge_controlplane.store.reading import read_page, read_record
from kedge_controlplane.store.record import (
    Record,
    owned_metadata,
    to_object,
    to_row,
)
from kedge_controlplane.store.tables import KIND_TABLES, LABELS
from kedge_controlplane.store.watch import Event, EventType

T = TypeVar("T", bound=Resource)


def missing(cls: type[Resource], name: str) -> NotFoundError:
    plural = kind_of(cls).plural
    return NotFoundError(
        f'{plural}.kedge.dev "{name}" not found', kind=plural, name=name
    )


class Transaction:
    """Handed to a work by `Store.write`; useless afterwards."""

    def __init__(
        self,
        connection: AsyncConnection,
        *,
        revision: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._start = revision
        self._clock = clock
        self.events: list[Event[Any]] = []

    @property
    def revision(self) -> int:
        """The resourceVersion of the newest write that this transaction sees."""
        return self._start + len(self.events)

    async def get(self, cls: type[T], namespace: str, name: str) -> T:
        return to_object(cls, await self._stored(cls, namespace, name))

    async def list(
        self,
        cls: type[T],
        *,
        namespace: str | None = None,
        selector: LabelSelector | None = None,
        limit: int | None = None,
        continue_token: str = "",
    ) -> Page[T]:
        query = Query(
            namespace=namespace,
            selector=selector or LabelSelector(),
            limit=limit,
            continue_token=continue_token,
        )
        page = await read_page(
            self._connection, cls.__name__, query, revision=self.revision
        )
        return Page(
            items=[to_object(cls, record) for record in page.items],
            resource_version=page.resource_version,
            continue_token=page.continue_token,
            remaining=page.remaining,
        )

    async def create(self, obj: T) -> T:
        """Store a new object; raises AlreadyExistsError."""
        cls, plural = type(obj), kind_of(obj).plural
        if await read_record(self._connection, cls.__name__, obj.namespace, obj.name):
            raise AlreadyExistsError(
                f'{plural}.kedge.dev "{obj.name}" already exists',
                kind=plural,
                name=obj.name,
            )
        document = obj.to_wire()
        record = Record(
            uid=str(uuid.uuid4()),
            namespace=obj.namespace,
            name=obj.name,
            generation=1,
            resource_version=self.revision + 1,
            created_at=self._clock(),
            deletion_timestamp=None,
            metadata=owned_metadata(document),
            spec=document.get("spec"),
            status=document.get("status"),
        )
        table = KIND_TABLES[cls.__name__]
        await self._connection.execute(insert(table).values(to_row(record)))
        await self._index(cls, record)
        return self._changed(EventType.ADDED, cls, record, previous=None)

    async def update(self, obj: T) -> T:
        """Replace spec and metadata; raises ConflictError, NotFoundError."""
        cls = type(obj)
        old = await self._stored(cls, obj.namespace, obj.name)
        _check_precondition(cls, old, obj.metadata.uid, obj.metadata.resource_version)
        document = obj.to_wire()
        spec = document.get("spec")
        new = replace(
            old,
            metadata=owned_metadata(document),
            spec=spec,
            generation=old.generation + (spec != old.spec),
        )
        if old.deletion_timestamp is not None and not new.finalizers:
            return await self._remove(cls, old, new)
        return await self._save(cls, old, new)

    async def update_status(self, obj: T) -> T:
        """Replace status and nothing else; raises ConflictError, NotFoundError."""
        cls = type(obj)
        old = await self._stored(cls, obj.namespace, obj.name)
        _check_precondition(cls, old, obj.metadata.uid, obj.metadata.resource_version)
        new = replace(old, status=obj.to_wire().get("status"))
        return await self._save(cls, old, new)

    async def delete(
        self,
        cls: type[T],
        namespace: str,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
    ) -> T:
        """Remove the object, or mark it where finalizers hold it; return what is left.

        `metadata.finalizers` of the answer tells which. Raises ConflictError and
        NotFoundError.
        """
        old = await self._stored(cls, namespace, name)
        _check_precondition(cls, old, uid, resource_version)
        if not old.finalizers:
            return await self._remove(cls, old, old)
        marked = old.deletion_timestamp or self._clock()
        return await self._save(cls, old, replace(old, deletion_timestamp=marked))

    async def execute(
        self, statement: Executable, rows: Sequence[Mapping[str, Any]] | None = None
    ) -> int:
        """Write to a side table; return the number of rows that it touched."""
        parameters = None if rows is None else [dict(row) for row in rows]
        return (await self._connection.execute(statement, parameters)).rowcount

    async def fetch(self, statement: Executable) -> Sequence[RowMapping]:
        """Run a SELECT on a side table."""
        return (await self._connection.execute(statement)).mappings().all()

    async def _stored(self, cls: type[T], namespace: str, name: str) -> Record:
        record = await read_record(self._connection, cls.__name__, namespace, name)
        if record is None:
            raise missing(cls, name)
        return record

    async def _save(self, cls: type[T], old: Record, new: Record) -> T:
        if new == old:
            return to_object(cls, old)
        new = replace(new, resource_version=self.revision + 1)
        table = KIND_TABLES[cls.__name__]
        changed: Mapping[str, Any] = {
            key: value
            for key, value in to_row(new).items()
            if value != getattr(old, key)
        }
        await self._connection.execute(
            update(table).where(table.c.uid == old.uid).values(changed)
        )
        if new.labels != old.labels:
            await self._unindex(cls, old)
            await self._index(cls, new)
        return self._changed(EventType.MODIFIED, cls, new, previous=old)

    async def _remove(self, cls: type[T], old: Record, last: Record) -> T:
        table = KIND_TABLES[cls.__name__]
        await self._connection.execute(delete(table).where(table.c.uid == old.uid))
        await self._unindex(cls, old)
        last = replace(last, resource_version=self.revision + 1)
        return self._changed(EventType.DELETED, cls, last, previous=old)

    async def _index(self, cls: type[T], record: Record) -> None:
        rows = [
            {
                "kind": cls.__name__,
                "namespace": record.namespace,
                "name": record.name,
                "key": key,
                "value": value,
            }
            for key, value in record.labels.items()
        ]
        if rows:
            await self._connection.execute(insert(LABELS), rows)

    async def _unindex(self, cls: type[T], record: Record) -> None:
        if record.labels:
            await self._connection.execute(
                delete(LABELS).where(
                    LABELS.c.kind == cls.__name__,
                    LABELS.c.namespace == record.namespace,
                    LABELS.c.name == record.name,
                )
            )

    def _changed(
        self, what: EventType, cls: type[T], record: Record, *, previous: Record | None
    ) -> T:
        labels = None if previous is None else previous.labels
        self.events.append(
            Event(type=what, cls=cls, record=record, previous_labels=labels)
        )
        return to_object(cls, record)


def _check_precondition(
    cls: type[Resource], stored: Record, uid: str | None, version: str | None
) -> None:
    plural = BY_KIND[cls.__name__].plural
    if uid and uid != stored.uid:
        found = f"expected uid {stored.uid}, found {uid:.64}"
    elif version and version != str(stored.resource_version):
        found = (
            f"expected resourceVersion {stored.resource_version}, found {version:.32}; "
            "the object has been modified; apply your changes to the latest version"
        )
    else:
        return
    raise ConflictError(
        f'operation cannot be fulfilled on {plural}.kedge.dev "{stored.name}": {found}',
        kind=plural,
        name=stored.name,
    )
