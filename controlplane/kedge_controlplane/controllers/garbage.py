# SPDX-License-Identifier: Apache-2.0
"""What a fleet's history keeps: the newest rollouts, and templates somebody names.

Called after a new rollout was published, by the only writer of the fleet's rollouts and
TemplateVersions. A crash before the deletion leaves it to the next rollout.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from kedge_controlplane.controllers.rollout import ENDED
from kedge_controlplane.errors import NotFoundError
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.fleet import Fleet
from kedge_controlplane.model.meta import Resource
from kedge_controlplane.model.rollout import Rollout
from kedge_controlplane.model.template_version import TemplateVersion
from kedge_controlplane.store.page import Query
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction

KEPT: Final = 10
"""Rollouts of one fleet, for whoever asks what happened; older ones are deleted."""


async def collect(store: Store, fleet: Fleet, rollouts: Sequence[Rollout]) -> None:
    """Delete a fleet's old rollouts, and TemplateVersions that nobody names any more.

    Args:
        store: Where they are.
        fleet: Whose.
        rollouts: All of the fleet's, as they are.
    """
    old = outdated(rollouts)
    if not old:
        return
    kept = {rollout.name for rollout in rollouts} - set(old)
    named = {r.spec.template_version for r in rollouts if r.name in kept}
    query = Query(namespace=fleet.namespace)
    devices = await store.documents(Device, query)
    named |= {item.get("spec", {}).get("templateVersion") for item in devices.items}
    templates = await store.documents(TemplateVersion, query)
    unnamed = [
        name
        for item in templates.items
        if item["spec"]["fleet"] == fleet.name
        and (name := item["metadata"]["name"]) not in named
    ]

    async def work(transaction: Transaction) -> None:
        for name in old:
            await _delete(transaction, Rollout, fleet.namespace, name)
        for name in unnamed:
            await _delete(transaction, TemplateVersion, fleet.namespace, name)

    await store.write(work)


def outdated(rollouts: Sequence[Rollout]) -> list[str]:
    """Name the ended rollouts that are not among the newest ones. Pure."""
    newest_first = sorted(rollouts, key=_age, reverse=True)
    return [r.name for r in newest_first[KEPT:] if r.status.phase in ENDED]


def _age(rollout: Rollout) -> tuple[datetime, int, str]:
    created = rollout.metadata.creation_timestamp or datetime.min.replace(tzinfo=UTC)
    return created, len(rollout.name), rollout.name


async def _delete(
    transaction: Transaction, cls: type[Resource], namespace: str, name: str
) -> None:
    try:
        await transaction.delete(cls, namespace, name)
    except NotFoundError:
        return  # somebody else did
