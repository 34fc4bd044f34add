# SPDX-License-Identifier: Apache-2.0
"""SELECTs over kinds, for readers and transactions alike.

A list is at most two statements whatever its size: the rows, and the count of what is
left.
"""

from typing import Any

from sqlalchemy import ColumnElement, Select, Table, exists, func, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from kedge_controlplane.model.selector import LabelSelector, Operator
from kedge_controlplane.store.page import Page, Position, Query
from kedge_controlplane.store.record import Record, from_row
from kedge_controlplane.store.tables import KIND_TABLES, LABELS, REVISION


async def read_revision(connection: AsyncConnection) -> int:
    """Return the resourceVersion of the newest write in this snapshot."""
    revision: int = (await connection.execute(select(REVISION.c.value))).scalar_one()
    return revision


async def read_record(
    connection: AsyncConnection, kind: str, namespace: str, name: str
) -> Record | None:
    table = KIND_TABLES[kind]
    statement = select(table).where(
        table.c.namespace == namespace, table.c.name == name
    )
    row = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else from_row(row)


async def read_page(
    connection: AsyncConnection, kind: str, query: Query, *, revision: int
) -> Page[Record]:
    """One page; `revision` is what the connection sees."""
    table = KIND_TABLES[kind]
    conditions = _conditions(table, kind, query)
    start = Position.decode(query.continue_token) if query.continue_token else None
    if start is not None:
        revision = start.resource_version
        conditions.append(_after(table, start))
    statement = (
        select(table).where(*conditions).order_by(table.c.namespace, table.c.name)
    )
    if query.limit is not None:
        statement = statement.limit(query.limit + 1)
    rows = (await connection.execute(statement)).mappings().all()
    records = [from_row(row) for row in rows[: query.limit]]
    if len(records) == len(rows):
        return Page(items=records, resource_version=revision)
    last = Position(
        resource_version=revision,
        namespace=records[-1].namespace,
        name=records[-1].name,
    )
    return Page(
        items=records,
        resource_version=revision,
        continue_token=last.encode(),
        remaining=await _remaining(connection, table, query, last),
    )


async def _remaining(
    connection: AsyncConnection, table: Table, query: Query, last: Position
) -> int | None:
    if query.selects:
        return None
    conditions = [_after(table, last)]
    if query.namespace is not None:
        conditions.append(table.c.namespace == query.namespace)
    statement: Select[Any] = select(func.count()).select_from(table).where(*conditions)
    count: int = (await connection.execute(statement)).scalar_one()
    return count


def _after(table: Table, position: Position) -> ColumnElement[bool]:
    key = tuple_(table.c.namespace, table.c.name)
    return key > (position.namespace, position.name)


def _conditions(table: Table, kind: str, query: Query) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [true()]
    if query.namespace is not None:
        conditions.append(table.c.namespace == query.namespace)
    if query.name is not None:
        conditions.append(table.c.name == query.name)
    return conditions + _selected(table, kind, query.selector)


def _selected(
    table: Table, kind: str, selector: LabelSelector
) -> list[ColumnElement[bool]]:
    def labelled(key: str, *values: str) -> ColumnElement[bool]:
        wanted = [LABELS.c.value.in_(values)] if values else []
        return exists().where(
            LABELS.c.kind == kind,
            LABELS.c.namespace == table.c.namespace,
            LABELS.c.name == table.c.name,
            LABELS.c.key == key,
            *wanted,
        )

    found = [labelled(key, value) for key, value in selector.match_labels.items()]
    for requirement in selector.match_expressions:
        match requirement.operator:
            case Operator.IN | Operator.EXISTS:
                found.append(labelled(requirement.key, *requirement.values))
            case Operator.NOT_IN | Operator.DOES_NOT_EXIST:
                found.append(~labelled(requirement.key, *requirement.values))
    return found
