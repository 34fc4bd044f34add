# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from kedge_controlplane.model.fleet import Batch, DeviceSelection, RolloutPolicy
from kedge_controlplane.model.rollout import BatchPhase, RolloutPhase
from kedge_controlplane.model.selector import LabelSelector
from kedge_controlplane.rollout.engine import decide, needed, next_deadline, plan, tally
from kedge_controlplane.rollout.state import (
    Abort,
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
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def policy(*limits: int | str, threshold: str = "100%") -> RolloutPolicy:
    return RolloutPolicy(
        device_selection=DeviceSelection(
            sequence=[Batch(limit=limit) for limit in limits]
        ),
        success_threshold=threshold,
    )


def fleet(count: int) -> dict[str, DeviceState]:
    names = [f"d{number:02}" for number in range(count)]
    return {name: DeviceState(name=name, labels={}) for name in names}


def snapshot(
    devices: dict[str, DeviceState],
    *limits: int | str,
    threshold: str = "100%",
    phase: RolloutPhase = RolloutPhase.PENDING,
) -> Snapshot:
    steps = plan(policy(*limits, threshold=threshold))
    return Snapshot(
        phase=phase,
        obsolete="",
        update_timeout=HOUR,
        listening_since=NOW - 24 * HOUR,
        steps=steps,
        batches=tuple(BatchState() for _ in steps),
        devices=devices,
    )


def started(
    devices: dict[str, DeviceState], *, threshold: str = "100%", batches: int = 1
) -> Snapshot:
    """All of `devices` are members of the running first of `batches`."""
    base = snapshot(
        devices,
        *([len(devices) or 1] * (batches - 1)),
        threshold=threshold,
        phase=RolloutPhase.PROGRESSING,
    )
    running = BatchState(
        phase=BatchPhase.PROGRESSING, devices=tuple(devices), started=NOW
    )
    return replace(base, batches=(running, *base.batches[1:]))


def member(name: str, outcome: Outcome = Outcome.PENDING) -> DeviceState:
    return DeviceState(name=name, labels={}, assigned=True, since=NOW, outcome=outcome)


def members(**outcomes: Outcome) -> dict[str, DeviceState]:
    return {name: member(name, outcome) for name, outcome in outcomes.items()}


OK, BAD, MOVING = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.PENDING


def test_first_batch_takes_the_first_devices_by_name() -> None:
    actions = decide(snapshot(fleet(5), 2), NOW)
    assert actions == [
        StartBatch(index=0, devices=("d00", "d01")),
        AssignTemplate(device="d00"),
        AssignTemplate(device="d01"),
    ]


def test_batch_limit_as_a_share_counts_the_whole_fleet() -> None:
    assert decide(snapshot(fleet(20), "10%"), NOW)[0] == StartBatch(
        index=0, devices=("d00", "d01")
    )


def test_batch_selector_narrows_the_candidates() -> None:
    devices = fleet(3)
    devices["d02"] = replace(devices["d02"], labels={"site": "lab"})
    base = snapshot(devices, 2)
    lab = replace(base.steps[0], selector=LabelSelector(match_labels={"site": "lab"}))
    actions = decide(replace(base, steps=(lab, *base.steps[1:])), NOW)
    assert actions[0] == StartBatch(index=0, devices=("d02",))


def test_share_of_a_narrowed_batch_still_counts_the_whole_fleet() -> None:
    lab = LabelSelector(match_labels={"site": "lab"})
    devices = {
        name: replace(device, labels={"site": "lab" if number < 5 else "roof"})
        for number, (name, device) in enumerate(fleet(20).items())
    }
    base = snapshot(devices, "20%")
    narrowed = replace(base.steps[0], selector=lab)
    actions = decide(replace(base, steps=(narrowed, *base.steps[1:])), NOW)
    assert actions[0] == StartBatch(index=0, devices=("d00", "d01", "d02", "d03"))


def test_policy_without_batches_moves_everybody_at_once() -> None:
    assert decide(snapshot(fleet(3)), NOW)[0] == StartBatch(
        index=0, devices=("d00", "d01", "d02")
    )


def test_nothing_happens_while_a_device_is_moving() -> None:
    assert decide(started(members(a=OK, b=MOVING)), NOW) == []


def test_batch_with_its_threshold_met_still_waits_for_the_moving_ones() -> None:
    devices = members(a=OK, b=MOVING)
    assert decide(started(devices, threshold="50%"), NOW) == []


def test_finished_batch_hands_over_to_the_next() -> None:
    assert decide(started(members(a=OK), batches=2), NOW) == [FinishBatch(index=0)]


def test_last_finished_batch_completes_the_rollout() -> None:
    assert decide(started(members(a=OK, b=OK)), NOW) == [
        FinishBatch(index=0),
        Complete(),
    ]


@pytest.mark.parametrize(
    ("threshold", "pauses"),
    [("100%", True), ("75%", False), ("76%", True), ("0%", False)],
)
def test_threshold_is_exact(threshold: str, *, pauses: bool) -> None:
    devices = members(a=BAD, b=OK, c=OK, d=OK)
    actions = decide(started(devices, threshold=threshold), NOW)
    assert isinstance(actions[0], Pause) is pauses


def test_pause_says_what_was_needed_and_what_failed() -> None:
    [action] = decide(started(members(a=BAD, b=MOVING)), NOW)
    assert action == Pause(
        index=0, message="batch rest: 2 of 2 devices must succeed, 1 failed"
    )


def test_device_that_takes_too_long_has_failed() -> None:
    running = started(members(a=MOVING))
    assert decide(running, NOW + HOUR - timedelta(seconds=1)) == []
    assert isinstance(decide(running, NOW + HOUR)[0], Pause)


def test_success_after_the_timeout_is_a_success() -> None:
    assert tally(started(members(a=OK)), 0, NOW + 2 * HOUR).succeeded == 1


def test_device_without_an_order_counts_from_the_start_of_its_batch() -> None:
    devices = {"a": DeviceState(name="a", labels={}, assigned=True)}
    assert isinstance(decide(started(devices), NOW + HOUR)[0], Pause)


def test_next_deadline_is_the_earliest_of_the_moving_devices() -> None:
    devices = members(a=OK, b=MOVING, c=MOVING)
    devices["c"] = replace(devices["c"], since=NOW + HOUR)
    running = started(devices)
    assert next_deadline(running, NOW) == NOW + HOUR
    assert next_deadline(running, NOW + HOUR) == NOW + 2 * HOUR
    assert next_deadline(replace(running, phase=RolloutPhase.PAUSED), NOW) is None


@pytest.mark.parametrize("phase", [RolloutPhase.PAUSED, RolloutPhase.ABORTED])
def test_halted_rollout_moves_nobody(phase: RolloutPhase) -> None:
    halted = replace(started(members(a=BAD)), phase=phase)
    newcomer = {**halted.devices, "new": DeviceState(name="new", labels={})}
    assert decide(replace(halted, devices=newcomer), NOW) == []


@pytest.mark.parametrize(
    "phase",
    [RolloutPhase.PENDING, RolloutPhase.PROGRESSING, RolloutPhase.PAUSED],
)
def test_newer_rollout_aborts_an_unfinished_one(phase: RolloutPhase) -> None:
    old = replace(started(members(a=BAD)), phase=phase, obsolete="superseded by cams-2")
    assert decide(old, NOW) == [Abort(reason="superseded by cams-2")]


@pytest.mark.parametrize("phase", [RolloutPhase.COMPLETED, RolloutPhase.ABORTED])
def test_newer_rollout_leaves_an_ended_one_alone(phase: RolloutPhase) -> None:
    old = replace(snapshot(fleet(2)), phase=phase, obsolete="superseded by cams-2")
    assert decide(old, NOW) == []


def paused(running: Snapshot) -> Snapshot:
    """Pause a running first batch as the controller does."""
    failed = replace(running.batches[0], phase=BatchPhase.FAILED)
    return replace(
        running,
        phase=RolloutPhase.PAUSED,
        batches=(failed, *running.batches[1:]),
    )


def test_device_that_recovers_resumes_its_rollout() -> None:
    assert decide(paused(started(members(a=BAD, b=OK), batches=2)), NOW) == []
    recovered = paused(started(members(a=OK, b=OK), batches=2))
    assert decide(recovered, NOW) == [Resume(index=0)]


def test_failed_device_that_leaves_resumes_its_rollout() -> None:
    halted = paused(started(members(a=BAD, b=OK)))
    left = replace(halted, devices={"b": halted.devices["b"]})
    assert decide(left, NOW) == [Resume(index=0)]


def test_late_device_keeps_a_rollout_paused_when_the_server_starts_again() -> None:
    halted = replace(paused(started(members(a=MOVING))), listening_since=NOW + HOUR)
    assert decide(halted, NOW + HOUR) == []


def test_time_in_which_nobody_listened_is_not_held_against_a_device() -> None:
    back = NOW + 3 * HOUR
    running = replace(started(members(a=MOVING)), listening_since=back)
    assert decide(running, back) == []
    assert next_deadline(running, back) == back + HOUR
    assert isinstance(decide(running, back + HOUR)[0], Pause)


LAB = LabelSelector(match_labels={"site": "lab"})


def narrowed(snapshot: Snapshot, index: int = 0) -> Snapshot:
    """Let one of the batches select the lab's devices only."""
    steps = list(snapshot.steps)
    steps[index] = replace(steps[index], selector=LAB)
    return replace(snapshot, steps=tuple(steps))


def test_batch_that_selects_nobody_does_not_let_the_others_through() -> None:
    base = narrowed(snapshot(fleet(3), 2))
    message = "batch batch-1: no device matches"
    assert decide(base, NOW) == [Pause(index=0, message=message)]
    halted = paused(base)
    assert decide(halted, NOW) == []
    lab = replace(halted.devices["d01"], labels={"site": "lab"})
    found = replace(halted, devices={**halted.devices, "d01": lab})
    assert decide(found, NOW) == [Resume(index=0)]
    goes_on = replace(base, devices=found.devices, phase=RolloutPhase.PROGRESSING)
    assert decide(goes_on, NOW)[0] == StartBatch(index=0, devices=("d01",))


def test_canary_that_left_unfinished_does_not_let_the_others_through() -> None:
    running = narrowed(started(members(a=MOVING), batches=2))
    others = replace(running, devices=fleet(3))
    message = "batch batch-1: no device is left to prove it"
    assert decide(others, NOW) == [Pause(index=0, message=message)]
    assert decide(paused(others), NOW) == []


def test_batch_whose_devices_all_left_starts_over_with_others() -> None:
    running = started(members(a=MOVING), batches=2)
    assert decide(replace(running, devices=fleet(3)), NOW) == [
        StartBatch(index=0, devices=("d00",)),
        AssignTemplate(device="d00"),
    ]


def test_batch_whose_devices_an_earlier_one_took_is_empty_and_finishes() -> None:
    base = narrowed(narrowed(started(members(a=OK), batches=3), 0), 1)
    done = replace(base.batches[0], phase=BatchPhase.COMPLETED)
    lab = replace(base.devices["a"], labels={"site": "lab"})
    second = replace(
        base, batches=(done, *base.batches[1:]), devices={**fleet(2), "a": lab}
    )
    assert decide(second, NOW) == [StartBatch(index=1, devices=())]
    empty = BatchState(phase=BatchPhase.PROGRESSING, started=NOW)
    begun = replace(second, batches=(done, empty, base.batches[2]))
    assert decide(begun, NOW) == [FinishBatch(index=1)]


def test_newcomer_joins_the_running_last_batch() -> None:
    running = started(members(a=OK))
    devices = {**running.devices, "b": DeviceState(name="b", labels={})}
    assert decide(replace(running, devices=devices), NOW) == [
        JoinBatch(index=0, devices=("b",)),
        AssignTemplate(device="b"),
    ]


def test_newcomer_waits_while_an_earlier_batch_runs() -> None:
    running = started(members(a=MOVING), batches=2)
    devices = {**running.devices, "b": DeviceState(name="b", labels={})}
    assert decide(replace(running, devices=devices), NOW) == []


def test_newcomer_of_a_completed_rollout_is_assigned_directly() -> None:
    done = replace(started(members(a=OK)), phase=RolloutPhase.COMPLETED)
    devices = {**done.devices, "b": DeviceState(name="b", labels={})}
    assert decide(replace(done, devices=devices), NOW) == [AssignTemplate(device="b")]


def test_member_whose_assignment_was_lost_is_assigned_again() -> None:
    devices = members(a=OK, b=MOVING)
    devices["b"] = replace(devices["b"], assigned=False)
    assert decide(started(devices), NOW) == [AssignTemplate(device="b")]


def test_device_that_left_the_fleet_no_longer_counts() -> None:
    running = started(members(a=OK, b=MOVING))
    assert decide(replace(running, devices={"a": running.devices["a"]}), NOW) == [
        FinishBatch(index=0),
        Complete(),
    ]


def test_batches_of_a_fleet_without_devices_finish() -> None:
    assert decide(started({}, batches=2), NOW) == [FinishBatch(index=0)]


def test_needed_rounds_up() -> None:
    assert needed(Fraction(95, 100), 10) == 10
    assert needed(Fraction(95, 100), 20) == 19
