# SPDX-License-Identifier: Apache-2.0
"""Fleets: template to TemplateVersion, TemplateVersion to Rollout, rollout to devices.

One pass reads a fleet with everything about it, in a number of queries that does not
depend on the number of devices, and takes each step in a transaction of its own, status
last:

1. Resolve the template. Where it is not the one being rolled out, create the
   TemplateVersion and its Rollout and name both in the fleet's status: one transaction.
   Then remove rollouts that ended long ago. A TemplateVersion that somebody deleted
   while it is being rolled out is made again.
2. Take every unfinished rollout of the fleet one step further.
3. Count the devices into the status.

Once a fleet is deleted its rollouts stop, and its devices name it no more. They run on,
so their TemplateVersion stays for as long as they name it.

A crash between any two leaves a state from which the next pass goes on. A template that
does not resolve is recorded on the fleet and stops neither the rollout under way nor
the counting.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from kedge_controlplane.controllers.garbage import collect
from kedge_controlplane.controllers.index import FleetIndex
from kedge_controlplane.controllers.membership import Membership, membership
from kedge_controlplane.controllers.orphans import named_by, release_devices
from kedge_controlplane.controllers.reader import DeviceReader
from kedge_controlplane.controllers.rollout import ENDED, apply_step, take_step
from kedge_controlplane.controllers.template import owner_reference, resolve
from kedge_controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    PermanentError,
)
from kedge_controlplane.model.device import Device, SummaryStatus, UpdatedStatus
from kedge_controlplane.model.fleet import DeviceCounts, Fleet
from kedge_controlplane.model.meta import (
    Condition,
    ConditionStatus,
    ObjectMeta,
    Resource,
    set_condition,
)
from kedge_controlplane.model.rollout import Rollout, RolloutSpec
from kedge_controlplane.model.template_version import TemplateVersion
from kedge_controlplane.reconcile.clock import Clock
from kedge_controlplane.reconcile.loop import Controller, Key
from kedge_controlplane.rollout.reading import outcome
from kedge_controlplane.rollout.state import Outcome
from kedge_controlplane.store.page import Query
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction
from kedge_controlplane.store.watch import Event

SPEC_VALID: Final = "SpecValid"
MULTIPLE_OWNERS: Final = "MultipleOwners"

_NAMED = 10  # contested devices in a condition's message
_DIGITS = 9  # of a rollout's number; a longer one is somebody else's idea


class FleetController(Controller):
    """Reconciles fleets."""

    name = "fleets"

    def __init__(
        self, *, store: Store, clock: Clock, listening_since: datetime
    ) -> None:
        """`listening_since`: when this process began to hear devices."""
        self._store = store
        self._clock = clock
        self._listening_since = listening_since
        self._index = FleetIndex()
        self._devices = DeviceReader(store)

    def keys_of(self, event: Event[Resource]) -> Iterable[Key]:
        return self._index.keys_of(event)

    async def all_keys(self) -> Iterable[Key]:
        page = await self._store.list(Fleet)
        self._index.replace(page.items)
        self._devices.forget_all()
        rollouts = await self._store.documents(Rollout, Query())
        devices = await self._store.documents(Device, Query())
        return {
            *(Key(fleet.namespace, fleet.name) for fleet in page.items),
            *(_fleet_of(item) for item in rollouts.items if not _ended(item)),
            # A fleet that is gone, if nobody saw it go.
            *filter(None, map(named_by, devices.items)),
        }

    async def reconcile(self, key: Key) -> timedelta | None:
        try:
            fleet = await self._store.get(Fleet, key.namespace, key.name)
        except NotFoundError:
            # Its rollouts stop, its devices keep what they run.
            await self._drive(await self._rollouts(key), (), newest="")
            return await release_devices(self._store, key)
        problem: PermanentError | None = None
        rollouts = await self._rollouts(key)
        try:
            template = await resolve(self._store, fleet)
            if _rolls_out(fleet, template, rollouts):
                await self._keep(template)
            else:
                fleet, new = await self._publish(fleet, template)
                rollouts.append(new)
                await collect(self._store, fleet, rollouts)
        except PermanentError as error:
            problem = error
        members = await self._members(fleet)
        again = await self._drive(rollouts, members.owned, newest=fleet.status.rollout)
        await self._describe(fleet, members, problem)
        return again

    async def record(self, key: Key, error: PermanentError) -> None:
        fleet = await self._store.get(Fleet, key.namespace, key.name)
        self._set_valid(fleet, error)
        await self._store.update_status(fleet)

    async def _keep(self, template: TemplateVersion) -> None:
        """Make a TemplateVersion again that was deleted while it is in use."""
        try:
            await self._store.get(TemplateVersion, template.namespace, template.name)
        except NotFoundError:
            await self._store.write(lambda tx: _create_template(tx, template))

    async def _publish(
        self, fleet: Fleet, template: TemplateVersion
    ) -> tuple[Fleet, Rollout]:
        """Make `template` the one that the fleet rolls out, with a new rollout."""
        page = await self._store.documents(Rollout, Query(namespace=fleet.namespace))
        names = [item["metadata"]["name"] for item in page.items]
        rollout = _new_rollout(fleet, template, taken=names)

        async def work(transaction: Transaction) -> tuple[Fleet, Rollout]:
            await _create_template(transaction, template)
            created = await transaction.create(rollout)
            fleet.status.template_version = template.name
            fleet.status.rollout = rollout.name
            return await transaction.update_status(fleet), created

        try:
            return await self._store.write(work)
        except AlreadyExistsError as exc:
            raise ConflictError(str(exc)) from exc

    async def _members(self, fleet: Fleet) -> Membership:
        namespace = fleet.namespace
        fleets = await self._store.list(Fleet, namespace=namespace)
        devices = await self._devices.matching(namespace, fleet.spec.selector)
        return membership(fleet, fleets=fleets.items, devices=devices)

    async def _drive(
        self, rollouts: Sequence[Rollout], devices: Sequence[Device], *, newest: str
    ) -> timedelta | None:
        """Take each rollout of the fleet a step further, the superseded ones first."""
        by_name = {device.name: device for device in devices}
        waits: list[timedelta] = []
        for rollout in sorted(rollouts, key=lambda r: (r.name == newest, r.name)):
            obsolete = _obsolete(rollout, newest)
            if obsolete and rollout.status.phase in ENDED:
                continue
            step = take_step(
                rollout,
                devices,
                obsolete=obsolete,
                listening_since=self._listening_since,
                now=self._clock.now(),
            )
            await apply_step(self._store, rollout, step, by_name)
            if step.again is not None:
                waits.append(step.again)
        return min(waits, default=None)

    async def _rollouts(self, key: Key) -> list[Rollout]:
        page = await self._store.documents(Rollout, Query(namespace=key.namespace))
        return [
            Rollout.model_validate(item)
            for item in page.items
            if _fleet_of(item) == key
        ]

    async def _describe(
        self, fleet: Fleet, members: Membership, problem: PermanentError | None
    ) -> None:
        """Bring the fleet's status up to date; nothing is written where it is."""
        before = fleet.status.model_copy(deep=True)
        status = fleet.status
        status.observed_generation = fleet.metadata.generation or 0
        status.devices = count(members.owned, status.template_version)
        self._set_valid(fleet, problem)
        self._set(
            fleet,
            MULTIPLE_OWNERS,
            holds=bool(members.contested),
            reason="Contested" if members.contested else "Unique",
            message=_contested(members.contested),
        )
        if status != before:
            await self._store.update_status(fleet)

    def _set_valid(self, fleet: Fleet, problem: PermanentError | None) -> None:
        self._set(
            fleet,
            SPEC_VALID,
            holds=problem is None,
            reason="Invalid" if problem else "Valid",
            message=str(problem or ""),
        )

    def _set(
        self, fleet: Fleet, kind: str, *, holds: bool, reason: str, message: str
    ) -> None:
        condition = Condition(
            type=kind,
            status=ConditionStatus.TRUE if holds else ConditionStatus.FALSE,
            reason=reason,
            message=message,
            last_transition_time=self._clock.now(),
            observed_generation=fleet.metadata.generation,
        )
        fleet.status.conditions = set_condition(fleet.status.conditions, condition)


def count(devices: Sequence[Device], template: str) -> DeviceCounts:
    """Count a fleet's devices by how far their update got."""
    updated = [device.status.updated.status for device in devices]
    outcomes = [outcome(device, template) for device in devices]
    summaries = [device.status.summary.status for device in devices]
    return DeviceCounts(
        total=len(devices),
        up_to_date=outcomes.count(Outcome.SUCCEEDED),
        updating=updated.count(UpdatedStatus.UPDATING),
        out_of_date=updated.count(UpdatedStatus.OUT_OF_DATE),
        failed=outcomes.count(Outcome.FAILED),
        offline=summaries.count(SummaryStatus.OFFLINE),
    )


def _rolls_out(
    fleet: Fleet, template: TemplateVersion, rollouts: Sequence[Rollout]
) -> bool:
    current = fleet.status.rollout
    return fleet.status.template_version == template.name and any(
        rollout.name == current for rollout in rollouts
    )


def _fleet_of(rollout: dict[str, Any]) -> Key:
    return Key(rollout["metadata"]["namespace"], rollout["spec"]["fleet"])


def _ended(rollout: dict[str, Any]) -> bool:
    return rollout.get("status", {}).get("phase") in ENDED


def _obsolete(rollout: Rollout, newest: str) -> str:
    """Say why a rollout is no longer wanted; empty: it is."""
    if rollout.name == newest:
        return ""
    return f"superseded by {newest}" if newest else "the fleet is gone"


def _contested(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"older fleets own {', '.join(names[:_NAMED])}{more}"


def _new_rollout(
    fleet: Fleet, template: TemplateVersion, *, taken: Sequence[str]
) -> Rollout:
    """Make the next rollout; other fleets' may have names that look like ours."""
    prefix = f"{fleet.name}-"
    numbers = [
        int(number)
        for name in taken
        if name.startswith(prefix)
        and (number := name.removeprefix(prefix)).isdecimal()
        and len(number) <= _DIGITS
    ]
    return Rollout(
        metadata=ObjectMeta(
            name=f"{prefix}{max(numbers, default=0) + 1}",
            namespace=fleet.namespace,
            owner_references=[owner_reference(fleet)],
        ),
        spec=RolloutSpec(
            fleet=fleet.name,
            template_version=template.name,
            policy=fleet.spec.rollout_policy,
        ),
    )


async def _create_template(transaction: Transaction, wanted: TemplateVersion) -> None:
    try:
        await transaction.create(wanted)
    except AlreadyExistsError:
        found = await transaction.get(TemplateVersion, wanted.namespace, wanted.name)
        if found.spec != wanted.spec:
            raise PermanentError(
                f"expected TemplateVersion {wanted.name} to hold what its name says, "
                "found other content: delete it"
            ) from None
