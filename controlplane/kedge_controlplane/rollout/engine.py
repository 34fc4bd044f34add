# SPDX-License-Identifier: Apache-2.0
"""Which devices of a fleet may move next: pure, replayable, one step at a time.

    Pending ──StartBatch──▶ Progressing ──Complete──▶ Completed
       │                      │     ▲
       │                    Pause   │
       │                      ▼   Resume
       └─────Pause─────────▶ Paused

    Pending, Progressing, Paused ──Abort──▶ Aborted

Rules, in the order in which they are applied:

1. A rollout that is obsolete, mostly because a newer one exists, ends at once: Abort.
2. An aborted rollout moves nobody. A paused one moves nobody either: it only looks
   again at the batch that paused it, and resumes when rules 5 and 6 would not pause
   that batch any more, because a device recovered or left, or one to try appeared.
3. A completed rollout brings devices that appear later straight to its template.
4. Batches run one after the other. A batch's devices are fixed when it starts, and no
   device is in two batches. Devices that appear while the last batch runs join it.
5. A batch whose threshold can no longer be met pauses the rollout.
6. A planned batch proves something only with devices in it. When all that it had left
   the fleet it starts over. When there is none to start with, while others are left
   over, it pauses the rollout, unless an earlier batch took every device that it
   selects.
7. A batch is finished when its threshold is met and none of its devices is moving any
   more: each has succeeded, failed, left the fleet or run out of time. So every batch
   comes to an end: finished, or paused.

A device runs out of time once it was given the update timeout while the control plane
listened without a break: before that its silence says nothing. A paused rollout does
not give such a device its time once more.

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
    Resume,
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
    if snapshot.phase is RolloutPhase.ABORTED:
        return []
    if index is None:
        return [Complete()]
    actions = _proceed(snapshot, index, now)
    if snapshot.phase is RolloutPhase.PAUSED:
        stuck = any(isinstance(action, Pause) for action in actions)
        return [] if stuck else [Resume(index=index)]
    return actions


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
        deadline
        for device in _members(snapshot, batch)
        if _outcome(snapshot, batch, device, now) is Outcome.PENDING
        and (deadline := _deadline(snapshot, batch, device)) is not None
    )
    return min(deadlines, default=None)


def needed(threshold: Fraction, total: int) -> int:
    """How many of `total` devices must succeed."""
    return ceil(threshold * total)


def _abort(snapshot: Snapshot) -> list[Action]:
    if snapshot.phase in (RolloutPhase.COMPLETED, RolloutPhase.ABORTED):
        return []
    return [Abort(reason=snapshot.obsolete)]


def _proceed(snapshot: Snapshot, index: int, now: datetime) -> list[Action]:
    batch = snapshot.batches[index]
    if batch.started is None:
        return _start(snapshot, index)
    planned = index < len(snapshot.steps) - 1
    if planned and not any(_members(snapshot, batch)):
        if _candidates(snapshot, index) or _unproven(snapshot, index):
            return _start(snapshot, index)
        return [FinishBatch(index=index)]
    return _advance(snapshot, index, now)


def _start(snapshot: Snapshot, index: int) -> list[Action]:
    if _unproven(snapshot, index):
        had = bool(snapshot.batches[index].devices)
        lack = "no device is left to prove it" if had else "no device matches"
        message = f"batch {snapshot.steps[index].name}: {lack}"
        return [Pause(index=index, message=message)]
    step, candidates = snapshot.steps[index], _candidates(snapshot, index)
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


def _candidates(snapshot: Snapshot, index: int) -> list[str]:
    """Devices that the batch could start with."""
    selector = snapshot.steps[index].selector
    return [d.name for d in _unplaced(snapshot) if selector.matches(dict(d.labels))]


def _unproven(snapshot: Snapshot, index: int) -> bool:
    """Whether devices are left over though none that the batch selects exists.

    The last batch selects everybody, so it is never unproven.
    """
    selector = snapshot.steps[index].selector
    return bool(_unplaced(snapshot)) and not any(
        selector.matches(dict(device.labels)) for device in snapshot.devices.values()
    )


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
    deadline = _deadline(snapshot, batch, device)
    late = deadline is not None and now >= deadline
    return Outcome.FAILED if late else Outcome.PENDING


def _deadline(
    snapshot: Snapshot, batch: BatchState, device: DeviceState
) -> datetime | None:
    since = device.since or batch.started
    if since is None:
        return None
    if snapshot.phase is not RolloutPhase.PAUSED:
        since = max(since, snapshot.listening_since)
    return since + snapshot.update_timeout
