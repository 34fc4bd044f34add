# SPDX-License-Identifier: Apache-2.0
"""A rollout driven by the engine against devices that behave in every way there is."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from kedge_controlplane.model.fleet import Batch, DeviceSelection, RolloutPolicy
from kedge_controlplane.model.quantity import parse_limit
from kedge_controlplane.model.rollout import BatchPhase, RolloutPhase
from kedge_controlplane.rollout.engine import decide, needed, plan, tally
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
)

TIMEOUT = timedelta(minutes=10)
TICK = timedelta(minutes=1)

limits = st.one_of(
    st.integers(1, 9), st.sampled_from(["1%", "10%", "34%", "50%", "100%"])
)
policies = st.builds(
    lambda sequence, threshold: RolloutPolicy(
        device_selection=DeviceSelection(
            sequence=[Batch(limit=limit) for limit in sequence]
        ),
        success_threshold=threshold,
    ),
    st.lists(limits, max_size=4),
    st.sampled_from(["0%", "50%", "80%", "95%", "100%"]),
)
# Minutes until a device answers, and how; None: never.
behaviours = st.tuples(
    st.one_of(st.none(), st.integers(0, 12)),
    st.sampled_from([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED]),
)


@dataclass
class World:
    """Applies actions as the controller does, and moves the devices."""

    snapshot: Snapshot
    behaviour: dict[str, tuple[int | None, Outcome]]
    now: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    seen: list[Action] = field(default_factory=list)

    def apply(self, action: Action) -> None:
        self.seen.append(action)
        snap = self.snapshot
        match action:
            case StartBatch(index=index, devices=names):
                fresh = BatchState(
                    phase=BatchPhase.PROGRESSING, devices=names, started=self.now
                )
                self._batch(index, fresh)
                self.snapshot = replace(self.snapshot, phase=RolloutPhase.PROGRESSING)
            case JoinBatch(index=index, devices=names):
                batch = snap.batches[index]
                self._batch(index, replace(batch, devices=(*batch.devices, *names)))
            case AssignTemplate(device=name):
                device = replace(snap.devices[name], assigned=True, since=self.now)
                self._device(device)
            case FinishBatch(index=index):
                done = replace(snap.batches[index], phase=BatchPhase.COMPLETED)
                self._batch(index, done)
            case Complete():
                self.snapshot = replace(snap, phase=RolloutPhase.COMPLETED)
            case Pause(index=index):
                self._batch(
                    index, replace(snap.batches[index], phase=BatchPhase.FAILED)
                )
                self.snapshot = replace(self.snapshot, phase=RolloutPhase.PAUSED)
            case Resume(index=index):
                batch = replace(snap.batches[index], phase=BatchPhase.PROGRESSING)
                self._batch(index, batch)
                self.snapshot = replace(self.snapshot, phase=RolloutPhase.PROGRESSING)
            case Abort():
                self.snapshot = replace(snap, phase=RolloutPhase.ABORTED)

    def pass_time(self) -> None:
        self.now += TICK
        for name, (minutes, outcome) in self.behaviour.items():
            device = self.snapshot.devices[name]
            if minutes is None or device.since is None:
                continue
            if self.now - device.since >= minutes * TICK:
                self._device(replace(device, outcome=outcome))

    def settle(self) -> None:
        while actions := decide(self.snapshot, self.now):
            for action in actions:
                self.apply(action)
            self.check()

    def moving(self) -> set[str]:
        return {
            d.name
            for d in self.snapshot.devices.values()
            if d.assigned
            and d.outcome is Outcome.PENDING
            and d.since is not None
            and self.now < d.since + TIMEOUT
        }

    def check(self) -> None:
        """Hold the promises that concern every moment."""
        running = [
            batch
            for batch in self.snapshot.batches
            if batch.phase in (BatchPhase.PROGRESSING, BatchPhase.FAILED)
        ]
        assert len(running) <= 1
        assert self.moving() <= {name for batch in running for name in batch.devices}
        placed = [n for batch in self.snapshot.batches for n in batch.devices]
        assert len(placed) == len(set(placed))
        for step, batch in zip(self.snapshot.steps, self.snapshot.batches, strict=True):
            if step.limit is not None:
                fleet = len(self.snapshot.devices)
                assert len(batch.devices) <= parse_limit(step.limit, of=fleet)

    def _batch(self, index: int, batch: BatchState) -> None:
        batches = list(self.snapshot.batches)
        batches[index] = batch
        self.snapshot = replace(self.snapshot, batches=tuple(batches))

    def _device(self, device: DeviceState) -> None:
        devices = {**self.snapshot.devices, device.name: device}
        self.snapshot = replace(self.snapshot, devices=devices)


def world(policy: RolloutPolicy, devices: list[tuple[int | None, Outcome]]) -> World:
    steps = plan(policy)
    names = [f"d{number:02}" for number in range(len(devices))]
    return World(
        snapshot=Snapshot(
            phase=RolloutPhase.PENDING,
            obsolete="",
            update_timeout=TIMEOUT,
            listening_since=datetime(2030, 1, 1, tzinfo=UTC),
            steps=steps,
            batches=tuple(BatchState() for _ in steps),
            devices={name: DeviceState(name=name, labels={}) for name in names},
        ),
        behaviour=dict(zip(names, devices, strict=True)),
    )


@settings(max_examples=150, deadline=None)
@given(policies, st.lists(behaviours, max_size=14))
def test_rollout_keeps_its_promises_and_ends(
    policy: RolloutPolicy, devices: list[tuple[int | None, Outcome]]
) -> None:
    run = world(policy, devices)
    run.settle()
    for _ in range(14 * len(run.snapshot.steps)):
        run.pass_time()
        run.settle()
    assert run.snapshot.phase in (RolloutPhase.COMPLETED, RolloutPhase.PAUSED)
    for index, step in enumerate(run.snapshot.steps):
        count = tally(run.snapshot, index, run.now)
        if run.snapshot.batches[index].phase is BatchPhase.COMPLETED:
            assert count.succeeded >= needed(step.threshold, count.total)
        if run.snapshot.batches[index].phase is BatchPhase.FAILED:
            assert run.snapshot.phase is RolloutPhase.PAUSED
            assert count.succeeded < needed(step.threshold, count.total)
    if run.snapshot.phase is RolloutPhase.COMPLETED:
        assert all(device.assigned for device in run.snapshot.devices.values())


@settings(max_examples=60, deadline=None)
@given(policies, st.lists(behaviours, max_size=8), st.integers(0, 15))
def test_supersede_wins_at_any_time(
    policy: RolloutPolicy, devices: list[tuple[int | None, Outcome]], when: int
) -> None:
    run = world(policy, devices)
    run.settle()
    for _ in range(when):
        run.pass_time()
        run.settle()
    before = run.snapshot.phase
    run.snapshot = replace(run.snapshot, obsolete="superseded by next")
    run.seen.clear()
    run.settle()
    if before is RolloutPhase.COMPLETED:
        assert run.seen == []
    else:
        assert run.seen == [Abort(reason="superseded by next")]
    run.pass_time()
    assert decide(run.snapshot, run.now) == []
