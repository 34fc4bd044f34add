# SPDX-License-Identifier: Apache-2.0
"""Which devices of a fleet may move next: pure, replayable, one step at a time.

    Pending ──StartBatch──▶ Progressing ──Complete──▶ Completed
                              │      │
                      Pause ◀─┘      └─▶ Abort (from Pending, Progressing and Paused)

Rules, in the order in which they are applied:

1. A rollout that is obsolete, mostly because a newer one exists, ends at once: Abort.
2. A paused or aborted rollout moves nobody.
3. A completed rollout brings devices that appear later straight to its template.
4. Batches run one after the other. A batch's devices are fixed when it starts, and no
   device is in two batches. Devices that appear while the last batch runs join it.
5. A batch whose threshold can no longer be met pauses the rollout.
6. A batch is finished when its threshold is met and none of its devices is still
   moving: every device has succeeded, failed, left the fleet or run out of time. So a
   rollout always ends.

Nothing is remembered between calls: after an interruption the same snapshot gives the
same answer.
"""

from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from math import ceil

from kedge_controlplane.model.fleet import RolloutPolicy
from kedge_controlplane.model.quantity import parse_limit, parse_share
from kedge_controlplane.model.rollout import BatchPhase, RolloutPhase
from kedge_controlplane.model.selector import LabelSelector
from kedge_controlplane.rollout.state import (
    Abort,
    Action,
    AssignTemplate,
    BatchState,
    Complete,
    DeviceState,
    FinishBatch,
    JoinBatch,
    Outcome,
    Pause,
    Snapshot,
    StartBatch,
    Step,
    Tally,
)

_MOVES = (RolloutPhase.PENDING, RolloutPhase.PROGRESSING)


def plan(policy: RolloutPolicy) -> tuple[Step, ...]:
    """Lay out a policy's batches; the last one takes the devices left over."""
    default = parse_share(policy.success_threshold)
    steps = [
        Step(
            name=batch.name or f"batch-{number}",
            selector=batch.selector,
            limit=batch.limit,
            threshold=(
                default
                if batch.success_threshold is None
                else parse_share(batch.success_threshold)
            ),
        )
        for number, batch in enumerate(policy.device_selection.sequence, start=1)
    ]
    rest = Step(name="rest", selector=LabelSelector(), limit=None, threshold=default)
    return (*steps, rest)


def decide(snapshot: Snapshot, now: datetime) -> list[Action]:
    """Say what has to happen next; nothing to do is an empty list."""
    if snapshot.obsolete:
        return _abort(snapshot)
    if snapshot.phase is RolloutPhase.COMPLETED:
        return [
            AssignTemplate(device=name)
            for name, device in sorted(snapshot.devices.items())
            if not device.assigned
        ]
    index = current(snapshot)
    if snapshot.phase not in _MOVES:
        return []
    if index is None:
        return [Complete()]
    if snapshot.batches[index].phase is BatchPhase.PENDING:
        return _start(snapshot, index)
    return _advance(snapshot, index, now)


def current(snapshot: Snapshot) -> int | None:
    """Index of the first batch that is not finished; None when all are."""
    for index, batch in enumerate(snapshot.batches):
        if batch.phase is not BatchPhase.COMPLETED:
            return index
    return None


def tally(snapshot: Snapshot, index: int, now: datetime) -> Tally:
    """Count the outcomes of one batch, late devices among the failed."""
    batch = snapshot.batches[index]
    outcomes = [
        _outcome(snapshot, batch, device, now) for device in _members(snapshot, batch)
    ]
    return Tally(
        total=len(outcomes),
        succeeded=outcomes.count(Outcome.SUCCEEDED),
        failed=outcomes.count(Outcome.FAILED),
    )


def next_deadline(snapshot: Snapshot, now: datetime) -> datetime | None:
    """Say when the next device runs out of time: when to decide again without news."""
    index = current(snapshot)
    if index is None or snapshot.phase not in _MOVES or snapshot.obsolete:
        return None
    batch = snapshot.batches[index]
    deadlines = (
        since + snapshot.update_timeout
        for device in _members(snapshot, batch)
        if _outcome(snapshot, batch, device, now) is Outcome.PENDING
        and (since := _since(batch, device)) is not None
    )
    return min(deadlines, default=None)


def needed(threshold: Fraction, total: int) -> int:
    """How many of `total` devices must succeed."""
    return ceil(threshold * total)


def _abort(snapshot: Snapshot) -> list[Action]:
    if snapshot.phase in (RolloutPhase.COMPLETED, RolloutPhase.ABORTED):
        return []
    return [Abort(reason=snapshot.obsolete)]


def _start(snapshot: Snapshot, index: int) -> list[Action]:
    step = snapshot.steps[index]
    candidates = [
        device.name
        for device in _unplaced(snapshot)
        if step.selector.matches(dict(device.labels))
    ]
    size = (
        len(candidates)
        if step.limit is None
        else parse_limit(step.limit, of=len(snapshot.devices))
    )
    chosen = tuple(candidates[:size])
    return [
        StartBatch(index=index, devices=chosen),
        *(AssignTemplate(device=name) for name in chosen),
    ]


def _advance(snapshot: Snapshot, index: int, now: datetime) -> list[Action]:
    count = tally(snapshot, index, now)
    want = needed(snapshot.steps[index].threshold, count.total)
    if count.total - count.failed < want:
        return [Pause(index=index, message=_verdict(snapshot, index, count, want))]
    last = index == len(snapshot.steps) - 1
    joining = tuple(d.name for d in _unplaced(snapshot)) if last else ()
    batch = snapshot.batches[index]
    unassigned = [d.name for d in _members(snapshot, batch) if not d.assigned]
    if joining or unassigned:
        join = [JoinBatch(index=index, devices=joining)] if joining else []
        return [
            *join,
            *(AssignTemplate(device=name) for name in (*unassigned, *joining)),
        ]
    if count.moving:
        return []
    return [FinishBatch(index=index), *([Complete()] if last else [])]


def _verdict(snapshot: Snapshot, index: int, count: Tally, want: int) -> str:
    return (
        f"batch {snapshot.steps[index].name}: {want} of {count.total} devices must "
        f"succeed, {count.failed} failed"
    )


def _members(snapshot: Snapshot, batch: BatchState) -> Iterator[DeviceState]:
    for name in batch.devices:
        if (device := snapshot.devices.get(name)) is not None:
            yield device


def _unplaced(snapshot: Snapshot) -> list[DeviceState]:
    """Devices in no batch yet, by name, so that everybody computes the same batch."""
    placed = {name for batch in snapshot.batches for name in batch.devices}
    return [d for name, d in sorted(snapshot.devices.items()) if name not in placed]


def _outcome(
    snapshot: Snapshot, batch: BatchState, device: DeviceState, now: datetime
) -> Outcome:
    if device.outcome is not Outcome.PENDING:
        return device.outcome
    since = _since(batch, device)
    late = since is not None and now >= since + snapshot.update_timeout
    return Outcome.FAILED if late else Outcome.PENDING


def _since(batch: BatchState, device: DeviceState) -> datetime | None:
    return device.since or batch.started
