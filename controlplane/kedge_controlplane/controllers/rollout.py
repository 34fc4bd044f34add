# SPDX-License-Identifier: Apache-2.0
"""Drives one rollout a step further: snapshot, decision, writes.

The decision is the engine's. Its writes (devices' specs, then the rollout's status) are
one transaction in which every object must still be as it was read; otherwise nothing is
written and the loop reads again. So a crash leaves the step done or not begun.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from kedge_controlplane.errors import ConflictError, NotFoundError
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.quantity import parse_duration
from kedge_controlplane.model.rollout import (
    BatchPhase,
    BatchStatus,
    Rollout,
    RolloutPhase,
    RolloutStatus,
)
from kedge_controlplane.rollout.engine import decide, next_deadline, plan, tally
from kedge_controlplane.rollout.reading import state
from kedge_controlplane.rollout.state import (
    Abort,
    Action,
    AssignTemplate,
    BatchState,
    Complete,
    FinishBatch,
    JoinBatch,
    Pause,
    Resume,
    Snapshot,
    StartBatch,
)
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction

ASSIGN_AT_ONCE: Final = 500
"""Devices told in one transaction, which every other writer waits for. The engine
names the rest of a batch again until all are told.
"""

ENDED: Final = (RolloutPhase.COMPLETED, RolloutPhase.ABORTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one decision changes; `again`: when time alone is reason for another."""

    status: RolloutStatus
    assigned: tuple[str, ...]
    again: timedelta | None


def snapshot(
    rollout: Rollout,
    devices: Sequence[Device],
    *,
    obsolete: str,
    listening_since: datetime,
) -> Snapshot:
    """Reduce a rollout and its fleet's devices to what the engine looks at."""
    steps = plan(rollout.spec.policy)
    batches = rollout.status.batches or [BatchStatus(name=step.name) for step in steps]
    return Snapshot(
        phase=rollout.status.phase,
        obsolete=obsolete,
        update_timeout=parse_duration(rollout.spec.policy.default_update_timeout),
        listening_since=listening_since,
        steps=steps,
        batches=tuple(
            BatchState(
                phase=batch.phase, devices=tuple(batch.devices), started=batch.started
            )
            for batch in batches
        ),
        devices={
            device.name: state(
                device,
                fleet=rollout.spec.fleet,
                template=rollout.spec.template_version,
            )
            for device in devices
        },
    )


def take_step(
    rollout: Rollout,
    devices: Sequence[Device],
    *,
    obsolete: str,
    listening_since: datetime,
    now: datetime,
) -> Step:
    """Decide, and work out what the rollout's status becomes. Pure."""
    before = snapshot(
        rollout, devices, obsolete=obsolete, listening_since=listening_since
    )
    actions = decide(before, now)
    status = rollout.status.model_copy(deep=True)
    if not status.batches:
        status.batches = [BatchStatus(name=step.name) for step in before.steps]
    if rollout.status.phase not in ENDED:
        _count(status, before, now)
    for action in actions:
        _note(status, action, now)
    deadline = next_deadline(before, now)
    return Step(
        status=status,
        assigned=tuple(a.device for a in actions if isinstance(a, AssignTemplate)),
        again=None if deadline is None else deadline - now,
    )


async def apply_step(
    store: Store, rollout: Rollout, step: Step, devices: Mapping[str, Device]
) -> None:
    """Write a step.

    Raises:
        ConflictError: An object changed since it was read.
    """
    if not step.assigned and step.status == rollout.status:
        return

    async def work(transaction: Transaction) -> None:
        for name in step.assigned[:ASSIGN_AT_ONCE]:
            await _assign(transaction, rollout, devices[name])
        await transaction.update_status(
            rollout.model_copy(update={"status": step.status})
        )

    await store.write(work)


async def _assign(transaction: Transaction, rollout: Rollout, decided: Device) -> None:
    """Tell a device to run the rollout's template, unless it is another one by now.

    Reports change a device all the time; only what the decision looked at must be as it
    was.
    """
    try:
        device = await transaction.get(Device, decided.namespace, decided.name)
    except NotFoundError as exc:
        raise ConflictError(f"device {decided.name} was deleted") from exc
    if (device.metadata.labels, device.spec) != (decided.metadata.labels, decided.spec):
        raise ConflictError(f"device {decided.name} changed since the decision")
    device.spec.fleet = rollout.spec.fleet
    device.spec.template_version = rollout.spec.template_version
    await transaction.update(device)


def _count(status: RolloutStatus, before: Snapshot, now: datetime) -> None:
    for index, batch in enumerate(status.batches):
        if batch.phase in (BatchPhase.PROGRESSING, BatchPhase.FAILED):
            count = tally(before, index, now)
            batch.succeeded, batch.failed = count.succeeded, count.failed


def _note(status: RolloutStatus, action: Action, now: datetime) -> None:
    match action:
        case StartBatch(index=index, devices=names):
            status.phase = RolloutPhase.PROGRESSING
            status.started = status.started or now
            status.current_batch = index
            batch = status.batches[index]
            batch.phase, batch.started = BatchPhase.PROGRESSING, now
            batch.devices = list(names)
            status.message = f"batch {batch.name}: {len(names)} devices"
        case JoinBatch(index=index, devices=names):
            status.batches[index].devices.extend(names)
        case FinishBatch(index=index):
            batch = status.batches[index]
            batch.phase, batch.finished = BatchPhase.COMPLETED, now
            status.message = f"batch {batch.name} finished"
        case Complete():
            _end(status, RolloutPhase.COMPLETED, "", now)
        case Pause(index=index, message=message):
            status.batches[index].phase = BatchPhase.FAILED
            status.phase, status.message = RolloutPhase.PAUSED, message
        case Resume(index=index):
            batch = status.batches[index]
            begun = batch.started is not None
            batch.phase = BatchPhase.PROGRESSING if begun else BatchPhase.PENDING
            status.phase = RolloutPhase.PROGRESSING
            status.message = f"batch {batch.name} goes on"
        case Abort(reason=reason):
            _end(status, RolloutPhase.ABORTED, reason, now)
        case AssignTemplate():
            pass  # a device's spec, not the rollout's status


def _end(
    status: RolloutStatus, phase: RolloutPhase, message: str, now: datetime
) -> None:
    status.phase, status.message, status.finished = phase, message, now
