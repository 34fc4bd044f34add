# SPDX-License-Identifier: Apache-2.0
"""The store: objects by kind, namespace and name, with Kubernetes' rules of writing.

Reads use connections of their own, each one snapshot. Writes go through one task
(writer.py); whoever awaited a write knows that it is durable. Events follow in commit
order (watch.py). Objects returned are fresh: change them freely and write them back.
After a crash the database holds exactly the groups that were committed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Self, TypeVar, overload

from sqlalchemy import Executable, RowMapping
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as CheckoutTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kedge_controlplane.errors import SettingsError, UnavailableError
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.selector import LabelSelector
from kedge_controlplane.store.engine import reading_engine, writing_engine
from kedge_controlplane.store.migrate import current, head
from kedge_controlplane.store.page import Page, Query
from kedge_controlplane.store.reading import read_page, read_record, read_revision
from kedge_controlplane.store.record import Record, to_document, to_object
from kedge_controlplane.store.transaction import Transaction, missing
from kedge_controlplane.store.watch import EventLog, Watch
from kedge_controlplane.store.writer import Writer

T = TypeVar("T", bound=Resource)
R = TypeVar("R")


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Store:
    """The only door to the database; made by `open`, shared by the whole process."""

    def __init__(
        self,
        *,
        readers: AsyncEngine,
        writers: AsyncEngine,
        log: EventLog,
        writer: Writer,
    ) -> None:
        self._readers = readers
        self._writers = writers
        self._log = log
        self._writer = writer

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], datetime] = _utc_now) -> Self:
        """Open a migrated database; raises SettingsError for any other."""
        found, expected = await current(url), head()
        if found != expected:
            raise SettingsError(
                f"expected a database at revision {expected}, found "
                f"{found or 'an empty one'}: run `kedge migrate`"
            )
        readers, writers = reading_engine(url), writing_engine(url)
        try:
            async with _reading(readers) as connection:
                log = EventLog(newest=await read_revision(connection))
        except UnavailableError:
            await readers.dispose()
            raise
        return cls(
            readers=readers,
            writers=writers,
            log=log,
            writer=Writer(writers, log, clock=clock),
        )

    async def close(self) -> None:
        """Commit what is queued, end the watches, close the connections."""
        try:
            await self._writer.close()
        finally:
            self._log.close()
            await self._readers.dispose()
            await self._writers.dispose()

    async def get(self, cls: type[T], namespace: str, name: str) -> T:
        """Return one object; raises NotFoundError."""
        async with _reading(self._readers) as connection:
            record = await read_record(connection, cls.__name__, namespace, name)
        if record is None:
            raise missing(cls, name)
        return to_object(cls, record)

    async def list(
        self,
        cls: type[T],
        *,
        namespace: str | None = None,
        selector: LabelSelector | None = None,
        limit: int | None = None,
        continue_token: str = "",
    ) -> Page[T]:
        """Return a page ordered by namespace and name; raises BadRequestError.

        Pages never repeat an object nor omit one that existed all the while.
        """
        query = Query(
            namespace=namespace,
            selector=selector or LabelSelector(),
            limit=limit,
            continue_token=continue_token,
        )
        page = await self._page(cls, query)
        return _mapped(page, [to_object(cls, record) for record in page.items])

    async def documents(self, cls: type[T], query: Query) -> Page[dict[str, Any]]:
        """Return a page of wire documents, which cost less than objects; read-only."""
        page = await self._page(cls, query)
        kind = cls.__name__
        return _mapped(page, [to_document(kind, record) for record in page.items])

    async def create(self, obj: T) -> T:
        """Store a new object, which gets its uid; raises AlreadyExistsError."""
        return await self.write(lambda transaction: transaction.create(obj))

    async def update(self, obj: T) -> T:
        """Replace spec and metadata; `resourceVersion` None writes unconditionally.

        Raises:
            ConflictError: the object has another uid or resourceVersion by now.
            NotFoundError: there is no such object.
        """
        return await self.write(lambda transaction: transaction.update(obj))

    async def update_status(self, obj: T) -> T:
        """Replace status, and nothing else, under the same rule."""
        return await self.write(lambda transaction: transaction.update_status(obj))

    async def delete(
        self,
        cls: type[T],
        namespace: str,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
    ) -> T:
        """Remove an object, or mark it for removal where finalizers hold it."""
        return await self.write(
            lambda transaction: transaction.delete(
                cls, namespace, name, uid=uid, resource_version=resource_version
            )
        )

    async def write(self, work: Callable[[Transaction], Awaitable[R]]) -> R:
        """Run several reads and writes as one; all of it or nothing is committed.

        `work` must be quick, since every writer waits for it, and must use its
        transaction only: this store's reads do not see what the transaction wrote.

        Raises:
            TooManyRequestsError: too many writes are queued.
            UnavailableError: the database failed, or the store is closed.
        """
        return await self._writer.submit(work)

    async def fetch(self, statement: Executable) -> Sequence[RowMapping]:
        """Run a SELECT on a side table."""
        async with _reading(self._readers) as connection:
            return (await connection.execute(statement)).mappings().all()

    @overload
    def watch(self, cls: type[T], *, since: int | None = None) -> Watch[T]: ...

    @overload
    def watch(self, *, since: int | None = None) -> Watch[Resource]: ...

    def watch(
        self, cls: type[Resource] | None = None, *, since: int | None = None
    ) -> Watch[Any]:
        """Follow changes of a kind, or of all, after `since`; raises GoneError.

        Begin from a page's resource_version to miss nothing. Close the watch when done.
        """
        return self._log.watch(cls, since=since)

    async def check(self) -> None:
        """Raise UnavailableError unless the store can be read and takes writes."""
        if self._writer.closed:
            raise UnavailableError("the store takes no writes")
        await self.revision()

    async def revision(self) -> int:
        """Return the resourceVersion of the newest committed write."""
        async with _reading(self._readers) as connection:
            return await read_revision(connection)

    async def _page(self, cls: type[T], query: Query) -> Page[Record]:
        async with _reading(self._readers) as connection:
            revision = await read_revision(connection)
            return await read_page(connection, cls.__name__, query, revision=revision)


@asynccontextmanager
async def _reading(readers: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    try:
        async with readers.connect() as connection:
            yield connection
    except (OperationalError, CheckoutTimeoutError) as error:
        raise UnavailableError(
            "the database did not answer", retry_after_s=1
        ) from error


def _mapped(page: Page[Record], items: Sequence[R]) -> Page[R]:
    return Page(
        items=items,
        resource_version=page.resource_version,
        continue_token=page.continue_token,
        remaining=page.remaining,
    )
