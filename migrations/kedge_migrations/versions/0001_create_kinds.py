# SPDX-License-Identifier: Apache-2.0
"""Create a table per kind, and the tables that no API object shows.

The first revision: there is nothing before it to keep working. It lists the kinds as
they were when it was written and never imports the code that it serves.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KINDS = (
    "devices",
    "enrollmentrequests",
    "publisherkeys",
    "models",
    "modelversions",
    "components",
    "componentversions",
    "configsets",
    "releases",
    "fleets",
    "templateversions",
    "rollouts",
)
SIDE_TABLES = ("labels", "revision", "tokens", "orders", "leases", "certificates")


def _name(column: str) -> sa.Column[str]:
    return sa.Column(column, sa.String(253), nullable=False)


def _time(column: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(column, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    for kind in KINDS:
        _create_kind(kind)
    _create_labels()
    revision_table = op.create_table(
        "revision",
        sa.Column("id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revision"),
    )
    op.bulk_insert(revision_table, [{"id": 1, "value": 0}])
    _create_tokens()
    _create_orders_and_leases()
    _create_certificates()


def downgrade() -> None:
    for table in (*SIDE_TABLES, *KINDS):
        op.drop_table(table)


def _create_kind(table: str) -> None:
    op.create_table(
        table,
        sa.Column("uid", sa.String(36), nullable=False),
        _name("namespace"),
        _name("name"),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("resource_version", sa.BigInteger, nullable=False),
        _time("created_at"),
        _time("deletion_timestamp", nullable=True),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("spec", sa.JSON),
        sa.Column("status", sa.JSON),
        sa.PrimaryKeyConstraint("uid", name=f"pk_{table}"),
        sa.UniqueConstraint("namespace", "name", name=f"uq_{table}_namespace_name"),
    )


def _create_labels() -> None:
    op.create_table(
        "labels",
        sa.Column("kind", sa.String(63), nullable=False),
        _name("namespace"),
        _name("name"),
        sa.Column("key", sa.String(317), nullable=False),
        sa.Column("value", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("kind", "namespace", "name", "key", name="pk_labels"),
    )
    op.create_index("ix_labels_kind_key_value", "labels", ["kind", "key", "value"])


def _create_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(63), nullable=False),
        _name("namespace"),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        _name("user"),
        sa.Column("groups", sa.JSON, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        _time("expires", nullable=True),
        _time("used_at", nullable=True),
        sa.Column("used_by", sa.String(64)),
        _time("created"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )


def _create_orders_and_leases() -> None:
    op.create_table(
        "orders",
        _name("namespace"),
        _name("device"),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("template_version", sa.String(253), nullable=False),
        sa.Column("content_digest", sa.String(64), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        _time("expires"),
        sa.PrimaryKeyConstraint("namespace", "device", name="pk_orders"),
    )
    op.create_index("ix_orders_expires", "orders", ["expires"])
    op.create_table(
        "leases",
        _name("namespace"),
        _name("device"),
        _time("last_seen"),
        sa.PrimaryKeyConstraint("namespace", "device", name="pk_leases"),
    )


def _create_certificates() -> None:
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), nullable=False),
        _name("namespace"),
        _name("device"),
        _time("not_after"),
        _time("revoked_at", nullable=True),
        sa.Column("public_key_sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
    )
    op.create_index(
        "ix_certificates_namespace_device", "certificates", ["namespace", "device"]
    )
