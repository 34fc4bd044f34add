# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens: whom each stands for, until when, and a hash of its secret."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from kedge_controlplane.store.source import Source
from kedge_controlplane.store.tables import TOKENS
from kedge_controlplane.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    id: str
    namespace: str  # empty: every namespace
    purpose: str
    secret_sha256: str
    user: str
    groups: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    expires: datetime | None = None  # None: never
    used_at: datetime | None = None
    used_by: str | None = None  # sha256 of the public key that used it
    created: datetime

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now


async def add(transaction: Transaction, token: Token) -> None:
    values = {column.name: getattr(token, column.name) for column in TOKENS.columns}
    values["groups"] = list(token.groups)
    await transaction.execute(insert(TOKENS).values(values))


async def find(source: Source, token_id: str) -> Token | None:
    rows = await source.fetch(select(TOKENS).where(TOKENS.c.id == token_id))
    if not rows:
        return None
    return Token(**{**rows[0], "groups": tuple(rows[0]["groups"])})


async def mark_used(
    transaction: Transaction, token_id: str, *, at: datetime, by: str
) -> bool:
    """Record the first use; False if somebody used it before."""
    statement = (
        update(TOKENS)
        .where(TOKENS.c.id == token_id, TOKENS.c.used_at.is_(None))
        .values(used_at=at, used_by=by)
    )
    return await transaction.execute(statement) == 1


async def remove_expired(transaction: Transaction, *, before: datetime) -> int:
    """Forget tokens that expired before a moment; return how many."""
    return await transaction.execute(delete(TOKENS).where(TOKENS.c.expires < before))
