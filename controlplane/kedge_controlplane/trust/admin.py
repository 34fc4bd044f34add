# SPDX-License-Identifier: Apache-2.0
"""The administrator's way in: an operator token and the kubeconfig that holds it.

The token in an existing kubeconfig is kept as long as the store knows it, so restarts
lock nobody out. A new token is stored before it is written: killed in between, it is
one that nobody has.
"""

from datetime import datetime
from pathlib import Path
from typing import Final

from kedge_controlplane.errors import TrustError
from kedge_controlplane.store import tokens
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.kubeconfig import read_admin_token, write_kubeconfig
from kedge_controlplane.trust.tokens import Purpose, new_token, read_token

ADMINS: Final = "system:masters"
"""Kubernetes' group that may do everything."""


async def write_admin(
    store: Store, path: Path, *, server: str, ca_pem: bytes, now: datetime
) -> None:
    """Write a kubeconfig for `server` with a token that works."""
    token = read_admin_token(path)
    if token is None or not await _known(store, token):
        token = new_token(Purpose.OPERATOR)
        presented = read_token(token)
        row = tokens.Token(
            id=presented.id,
            namespace="",
            purpose=Purpose.OPERATOR,
            secret_sha256=presented.secret_sha256,
            user="admin",
            groups=(ADMINS,),
            created=now,
        )
        await store.write(lambda transaction: tokens.add(transaction, row))
    write_kubeconfig(path, server=server, ca_pem=ca_pem, token=token)


async def _known(store: Store, token: str) -> bool:
    try:
        presented = read_token(token)
    except TrustError:
        return False
    row = await tokens.find(store, presented.id)
    return (
        row is not None
        and row.purpose == Purpose.OPERATOR
        and presented.matches(row.secret_sha256)
    )
