# SPDX-License-Identifier: Apache-2.0
"""The database's tables, as code sees them; what really exists is what migrations made.

One table per kind, all of one shape, from the registry; beside them the tables that no
API object shows. A test holds this module and the migrations together.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)

from kedge_controlplane.model.registry import KINDS, Kind

METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """A moment. SQLite keeps no zone, so it is UTC on the way in and on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        del dialect
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


def _name(column: str, *, primary_key: bool = False) -> Column[str]:
    return Column(column, String(253), primary_key=primary_key, nullable=False)


def _kind_table(kind: Kind) -> Table:
    return Table(
        kind.plural,
        METADATA,
        Column("uid", String(36), primary_key=True),
        _name("namespace"),
        _name("name"),
        Column("generation", BigInteger, nullable=False),
        Column("resource_version", BigInteger, nullable=False),
        Column("created_at", UtcTime, nullable=False),
        Column("deletion_timestamp", UtcTime),
        Column("metadata", JSON, nullable=False),
        Column("spec", JSON(none_as_null=True)),
        Column("status", JSON(none_as_null=True)),
        UniqueConstraint("namespace", "name"),
    )


KIND_TABLES: Final[Mapping[str, Table]] = {
    kind.kind: _kind_table(kind) for kind in KINDS
}

LABELS: Final = Table(
    "labels",
    METADATA,
    Column("kind", String(63), primary_key=True),
    _name("namespace", primary_key=True),
    _name("name", primary_key=True),
    Column("key", String(317), primary_key=True),
    Column("value", String(63), nullable=False),
    Index(None, "kind", "key", "value"),
)
"""Every label of every object, so that selectors are answered by an index."""

REVISION: Final = Table(
    "revision",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
"""One row: the resourceVersion of the last committed write."""

TOKENS: Final = Table(
    "tokens",
    METADATA,
    Column("id", String(63), primary_key=True),
    _name("namespace"),
    Column("purpose", String(16), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("user", String(253), nullable=False),
    Column("groups", JSON, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("expires", UtcTime),
    Column("used_at", UtcTime),
    Column("used_by", String(64)),
    Column("created", UtcTime, nullable=False),
)

ORDERS: Final = Table(
    "orders",
    METADATA,
    _name("namespace", primary_key=True),
    _name("device", primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("template_version", String(253), nullable=False),
    Column("content_digest", String(64), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("expires", UtcTime, nullable=False),
    Index(None, "expires"),
)

LEASES: Final = Table(
    "leases",
    METADATA,
    _name("namespace", primary_key=True),
    _name("device", primary_key=True),
    Column("last_seen", UtcTime, nullable=False),
)

CERTIFICATES: Final = Table(
    "certificates",
    METADATA,
    Column("serial", String(40), primary_key=True),
    _name("namespace"),
    _name("device"),
    Column("not_after", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
    Column("public_key_sha256", String(64), nullable=False),
    Index(None, "namespace", "device"),
)
