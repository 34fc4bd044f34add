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
    halted = replace(started(members(a=OK)), phase=phase)
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


def test_empty_batch_finishes() -> None:
    assert decide(started({}, batches=2), NOW) == [FinishBatch(index=0)]


def test_needed_rounds_up() -> None:
    assert needed(Fraction(95, 100), 10) == 10
    assert needed(Fraction(95, 100), 20) == 19
