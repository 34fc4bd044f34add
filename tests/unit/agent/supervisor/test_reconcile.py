# SPDX-License-Identifier: Apache-2.0
"""What a device does with orders, step by step, in one process."""

import asyncio
import errno
import hashlib
import json
import os
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from securesystemslib.signer._crypto_signer import CryptoSigner

from kedge_agent.backoff import Backoff
from kedge_agent.errors import StateError
from kedge_agent.fetch.base import Blob
from kedge_agent.restore import CRASH_LOOP
from kedge_agent.trust.order import VerifiedOrder
from kedge_agent.update import MAX_ATTEMPTS
from kedge_wire import dsse
from kedge_wire.v1.order_pb2 import Workload
from kedge_wire.v1.report_pb2 import Failure, Phase, Result
from tests.simulators.device import Device, device
from tests.simulators.repository import Repository


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


Life = AbstractAsyncContextManager[Device]


def life(folder: Path, repository: Repository, *, min_free_bytes: int = 0) -> Life:
    return device(
        folder, repository.keys, repository.blobs, min_free_bytes=min_free_bytes
    )


def serving(device: Device) -> int:
    loaded = device.host.simulated.serving
    return loaded.number if loaded else 0


async def test_an_order_is_fetched_loaded_verified_and_committed(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1, n=1))
        report = await one.settled(1)
        assert report.result == Result.RESULT_SUCCESSFUL
        assert (report.running_generation, report.running_template_version) == (
            1,
            "t-1",
        )
        assert [w.name for w in report.workloads if w.ready] == ["digits"]
        assert (report.serving_http, report.serving_grpc) == ("http://h:1", "h:2")
        assert one.phases[-6:] == [
            "PREPARING",
            "READY_TO_UPDATE",
            "APPLYING_UPDATE",
            "ACTIVATING",
            "VERIFYING",
            "UPDATED",
        ]
        assert serving(one) == 1
        sequences = [report.sequence for report in one.reports]
        assert sequences == sorted(set(sequences))


async def test_results_of_an_earlier_update_are_not_reported_during_the_next(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1, fail="prepare"))
        await one.settled(1)
        await one.reconciler.offer(repository.signed(2))
        await one.settled(2)
        during = [
            report
            for report in one.reports
            if report.generation == 2 and report.phase != Phase.PHASE_UPDATED
        ]
        assert during
        assert all(not report.HasField("failure") for report in during)
        assert {report.result for report in during} == {Result.RESULT_UNSPECIFIED}


async def test_no_report_says_updated_of_an_order_that_was_not_taken_up_yet(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        offering = asyncio.create_task(one.reconciler.offer(repository.signed(2)))
        while not offering.done():
            report = one.reconciler._report()
            assert report.generation == one.reconciler.held_generation
            await asyncio.sleep(0)
        await offering


async def test_an_order_to_run_nothing_ends_what_ran(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        await one.reconciler.offer(repository.sign(repository.order(2)))
        report = await one.settled(2)
        assert (report.running_generation, list(report.workloads)) == (2, [])


async def test_a_restarted_agent_serves_again_without_being_told(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        first = await one.settled(1)
    async with life(folder, repository) as two:
        assert two.reconciler.held_generation == 1
        assert two.reconciler.serves
        report = await two.until(lambda r: bool(r.workloads))
        assert serving(two) == 1
        assert report.result == Result.RESULT_SUCCESSFUL
        assert report.sequence > first.sequence


async def test_a_refreshed_order_is_committed_without_touching_the_runtime(
    folder: Path, repository: Repository
) -> None:
    workload = repository.workload()
    async with life(folder, repository) as one:
        for generation in (1, 2):
            order = repository.order(generation, workload, template="t")
            await one.reconciler.offer(repository.sign(order))
            report = await one.settled(generation)
        assert report.running_generation == 2
        assert one.host.simulated.prepares == [1]
    async with life(folder, repository) as two:
        await two.until(lambda r: bool(r.workloads))
        assert serving(two) == 2


async def test_what_fails_before_it_serves_changes_nothing_and_is_not_tried_again(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        bad = repository.workload(fail="prepare")
        for generation in (2, 3):
            order = repository.order(generation, bad, template="bad")
            await one.reconciler.offer(repository.sign(order))
            report = await one.settled(generation)
        assert report.phase == Phase.PHASE_ERROR
        assert report.result == Result.RESULT_FAILED_NO_STATE_CHANGE
        assert report.running_generation == 1
        failure = report.failure
        assert (failure.component, failure.code) == ("runtime", "INVALID_ARGUMENT")
        assert failure.phase == Phase.PHASE_APPLYING_UPDATE
        assert (failure.element, failure.message) == ("digits", "no such operator")
        assert serving(one) == 1
        assert one.host.simulated.prepares.count(3) == 0
    async with life(folder, repository) as two:
        await two.until(lambda r: bool(r.workloads))
        assert two.host.simulated.prepares == [1]


async def test_a_new_template_version_of_failed_content_is_tried_again(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        for generation in (1, 2):
            await one.reconciler.offer(repository.signed(generation, fail="prepare"))
            await one.settled(generation)
        assert one.host.simulated.prepares == [1, 2]


@pytest.mark.parametrize("fail", ["not-ready", "crash-activate", "crash-status"])
async def test_what_fails_while_it_serves_is_rolled_back(
    folder: Path, repository: Repository, fail: str
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        await one.reconciler.offer(repository.signed(2, fail=fail))
        report = await one.settled(2)
        assert report.result == Result.RESULT_FAILED_ROLLBACK_COMPLETE
        assert report.running_generation == 1
        assert "ROLLING_BACK" in one.phases
        await one.until(lambda r: any(w.ready for w in r.workloads))
        assert serving(one) == 1
        assert one.parts.journal.state.trial == 0
        assert one.host.simulated.prepares.count(2) <= 1


async def test_a_first_generation_that_fails_leaves_a_device_that_takes_the_next(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1, fail="not-ready"))
        report = await one.settled(1)
        assert report.result == Result.RESULT_FAILED_ROLLBACK_COMPLETE
        assert (report.running_generation, serving(one)) == (0, 0)
        await one.reconciler.offer(repository.signed(2))
        assert (await one.settled(2)).running_generation == 2


async def test_what_kills_the_runtime_while_loading_is_given_up(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        await one.reconciler.offer(repository.signed(2, fail="crash-prepare"))
        report = await one.until(lambda r: r.failure.code == "ABORTED")
        assert one.host.crashes == MAX_ATTEMPTS
        assert report.result == Result.RESULT_FAILED_NO_STATE_CHANGE
        await one.until(lambda r: any(w.ready for w in r.workloads))
        assert serving(one) == 1


async def test_a_runtime_that_dies_gets_the_current_generation_again(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        one.host.crash()
        await one.until(lambda r: not any(w.ready for w in r.workloads))
        await one.until(lambda r: any(w.ready for w in r.workloads))
        assert one.host.process.incarnation == 2
        assert serving(one) == 1


async def test_a_current_generation_that_ends_every_runtime_is_left_for_the_previous(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        await one.reconciler.offer(repository.signed(2, n=2))
        await one.settled(2)
    loaded = device(folder, repository.keys, repository.blobs)
    async with loaded as two:
        # It was fine when it was committed; since then, something about the device
        # has changed, and it no longer is.
        simulated = two.host.simulated
        prepare = simulated.Prepare

        async def fatal(request: object, context: object) -> object:
            if getattr(request, "generation", 0) == 2:
                two.host.crash()
            return await prepare(request, context)  # type: ignore[arg-type]  # as it came

        simulated.Prepare = fatal  # type: ignore[method-assign,assignment]  # a fault
        two.host.crash()
        report = await two.until(
            lambda r: r.running_generation == 1 and any(w.ready for w in r.workloads)
        )
        assert report.result == Result.RESULT_FAILED_ROLLBACK_COMPLETE


async def test_a_missing_artifact_is_waited_for(
    folder: Path, repository: Repository
) -> None:
    envelope = repository.signed(1)
    digest = hashlib.sha256(b"component").hexdigest()
    component = repository.blobs.pop(digest)
    async with life(folder, repository) as one:
        await one.reconciler.offer(envelope)
        report = await one.until(lambda r: r.HasField("failure"))
        assert (report.failure.component, report.failure.code) == (
            "fetch",
            "UNAVAILABLE",
        )
        # It heals by itself: for a rollout the device is still on its way.
        assert report.phase == Phase.PHASE_PREPARING
        assert report.result == Result.RESULT_UNSPECIFIED
        repository.blobs[digest] = component
        await one.until(lambda r: r.phase == Phase.PHASE_UPDATED)


async def test_a_full_disk_is_reported_and_waited_for(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository, min_free_bytes=2**60) as one:
        await one.reconciler.offer(repository.signed(1))
        report = await one.until(lambda r: r.HasField("failure"))
        assert (report.failure.component, report.failure.code) == (
            "disk",
            "RESOURCE_EXHAUSTED",
        )
        # Somebody may make room: for a rollout the device is still on its way.
        assert report.phase == Phase.PHASE_PREPARING
        one.parts.store._min_free_bytes = 0
        await one.until(lambda r: r.phase == Phase.PHASE_UPDATED)


async def test_a_corrupt_artifact_is_refused_by_name(
    folder: Path, repository: Repository
) -> None:
    envelope = repository.signed(1)
    digest = hashlib.sha256(b"component").hexdigest()
    repository.blobs[digest] = b"COMPONENT"
    async with life(folder, repository) as one:
        await one.reconciler.offer(envelope)
        report = await one.settled(1)
        assert (report.failure.element, report.failure.code) == (digest, "DATA_LOSS")
        assert not one.parts.store.path(digest).exists()


async def test_a_refused_order_is_reported_and_nothing_else_happens(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        order = repository.order(2, repository.workload(n=2))
        stranger = CryptoSigner.generate_ed25519()
        await one.reconciler.offer(repository.sign(order, signer=stranger))
        report = await one.until(lambda r: r.refused_generation == 2)
        assert (report.failure.component, report.failure.code) == (
            "trust",
            "PERMISSION_DENIED",
        )
        assert (report.generation, report.running_generation) == (1, 1)
        assert report.phase == Phase.PHASE_UPDATED
        await one.reconciler.offer(repository.sign(order))
        report = await one.settled(2)
        assert (report.refused_generation, report.HasField("failure")) == (0, False)


async def test_a_replayed_older_order_is_refused_also_after_a_restart(
    folder: Path, repository: Repository
) -> None:
    old = repository.signed(1, n=1)
    async with life(folder, repository) as one:
        await one.reconciler.offer(old)
        await one.settled(1)
        await one.reconciler.offer(repository.signed(2, n=2))
        await one.settled(2)
    async with life(folder, repository) as two:
        await two.reconciler.offer(old)
        report = await two.until(lambda r: r.refused_generation == 1)
        assert "generation 2 or newer" in report.failure.message
        await two.until(lambda r: any(w.ready for w in r.workloads))
        assert serving(two) == 2


async def test_an_order_that_expired_before_it_could_be_started_is_not_started(
    folder: Path, repository: Repository
) -> None:
    order = repository.order(1, repository.workload(), lasts=timedelta(seconds=60))
    async with life(folder, repository) as one:
        one.reconciler._clock = lambda: datetime.now(UTC) + timedelta(seconds=59)
        async with one.outbox.news:
            await one.reconciler.offer(repository.sign(order))
            one.reconciler._clock = lambda: datetime.now(UTC) + timedelta(seconds=61)
        report = await one.until(lambda r: r.refused_generation == 1)
        assert report.running_generation == 0
        assert report.failure.element == "expires"


async def test_a_newer_order_ends_a_download_that_does_not_come(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        stuck = asyncio.Event()
        fetch = one.parts.fetcher.fetch

        async def never(blob: Blob) -> None:
            if blob.sha256 == slow:
                stuck.set()
                await asyncio.Event().wait()
            await fetch(blob)

        order = repository.order(1, repository.workload(model=b"slow"))
        slow = hashlib.sha256(b"slow").hexdigest()
        one.parts.fetcher.fetch = never  # type: ignore[method-assign]  # a fault
        await one.reconciler.offer(repository.sign(order))
        await stuck.wait()
        await one.reconciler.offer(repository.signed(2))
        report = await one.settled(2)
        assert report.running_generation == 2
        assert one.host.simulated.prepares == [2]


async def test_a_trial_that_a_stop_interrupted_is_over_after_the_start(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        await one.reconciler.offer(repository.signed(2, n=2))
        await one.until(lambda r: r.phase == Phase.PHASE_VERIFYING)
        for task in one.tasks:
            task.cancel()
        await asyncio.gather(*one.tasks, return_exceptions=True)
        assert one.parts.journal.state.trial in {0, 2}
    async with device(folder, repository.keys, repository.blobs, run=False) as two:
        assert two.parts.journal.state.trial == 0
        assert two.parts.journal.state.current in {1, 2}
        assert two.reconciler.held_generation == 2


async def test_a_rotten_current_generation_falls_back_and_is_fetched_again(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1, n=1))
        await one.settled(1)
        second = repository.workload(model=b"second", n=2)
        await one.reconciler.offer(repository.sign(repository.order(2, second)))
        await one.settled(2)
    rotten = folder / "cas" / second.model.sha256
    rotten.chmod(0o600)
    rotten.write_bytes(b"sEcond")
    async with device(folder, repository.keys, repository.blobs, run=False) as two:
        assert two.parts.journal.state.current == 1
        assert two.reconciler.serves
    async with life(folder, repository) as three:
        report = await three.settled(2)
        assert report.running_generation == 2
        assert rotten.read_bytes() == b"second"


async def test_only_what_is_needed_stays_on_disk(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        for generation in range(1, 5):
            await one.reconciler.offer(repository.signed(generation, n=generation))
            await one.settled(generation)
        assert len(list((folder / "gen").iterdir())) == 2
        # Two generations of a model and a configuration each, and one component.
        assert len(list((folder / "cas").iterdir())) == 5


async def test_a_silent_runtime_is_restarted(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        first = one.host.process.client
        assert first is not None
        await first.close()
        await one.until(lambda _: one.host.process.incarnation == 2)
        await one.until(lambda r: any(w.ready for w in r.workloads))


def rot(folder: Path, repository: Repository, workload: Workload) -> str:
    """Change the model on the disk and take it from the repository."""
    digest = workload.model.sha256
    path = folder / "cas" / digest
    path.chmod(0o600)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    del repository.blobs[digest]
    return digest


async def test_a_newer_order_is_applied_while_an_old_artifact_cannot_be_fetched(
    folder: Path, repository: Repository
) -> None:
    first = repository.workload(model=b"first", n=1)
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.sign(repository.order(1, first)))
        await one.settled(1)
        rot(folder, repository, first)
        one.host.crash()
        report = await one.until(lambda r: r.HasField("failure"))
        assert (report.failure.code, report.phase) == ("UNAVAILABLE", Phase.PHASE_ERROR)
        await one.reconciler.offer(repository.signed(2, n=2))
        report = await one.until(lambda r: r.running_generation == 2)
        assert not report.HasField("failure")
        assert serving(one) == 2


async def test_a_generation_that_cannot_be_fetched_again_is_left_for_the_previous(
    folder: Path, repository: Repository
) -> None:
    second = repository.workload(model=b"second", n=2)
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1, n=1))
        await one.settled(1)
        await one.reconciler.offer(repository.sign(repository.order(2, second)))
        await one.settled(2)
        digest = rot(folder, repository, second)
        one.host.crash()
        report = await one.until(
            lambda r: r.running_generation == 1 and any(w.ready for w in r.workloads)
        )
        # It may come back: the network's absence says nothing about it.
        assert report.phase == Phase.PHASE_PREPARING
        repository.blobs[digest] = b"second"
        await one.until(
            lambda r: r.running_generation == 2 and r.phase == Phase.PHASE_UPDATED
        )


async def test_the_order_that_is_accepted_while_the_disk_is_cleared_stays(
    folder: Path, repository: Repository
) -> None:
    async with device(folder, repository.keys, repository.blobs, run=False) as one:
        await one.reconciler.offer(repository.signed(1, n=1))
        collecting = asyncio.create_task(one.reconciler._collect())
        await asyncio.gather(
            one.reconciler.offer(repository.signed(2, n=2)), collecting
        )
        assert (folder / "gen" / "2.bin").exists()
        # A floor that could not be raised leaves its order above it.
        one.parts.store.put_generation(3, b"order")
        await one.reconciler._collect()
        assert {path.name for path in (folder / "gen").iterdir()} == {
            "2.bin",
            "3.bin",
        }


async def test_a_lone_generation_is_tried_again_after_every_runtime_it_has_ended(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        faults = iter(range(CRASH_LOOP + 2))
        prepare = one.host.simulated.Prepare

        async def fatal(request: object, context: object) -> object:
            if next(faults, None) is not None:
                one.host.crash()
                await asyncio.Event().wait()
            return await prepare(request, context)  # type: ignore[arg-type]  # as it came

        one.host.simulated.Prepare = fatal  # type: ignore[method-assign,assignment]  # a fault
        one.host.crash()
        await one.until(lambda r: not any(w.ready for w in r.workloads))
        report = await one.until(lambda r: any(w.ready for w in r.workloads))
        assert next(faults, None) is None
        assert (report.running_generation, report.phase) == (1, Phase.PHASE_UPDATED)


async def test_a_refused_generation_is_tried_again_with_growing_waits(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        simulated, restorer = one.host.simulated, one.reconciler._restorer
        restorer._retry = Backoff(first_s=1000, longest_s=1000, rng=random.Random(1))
        simulated.refusals["Prepare"] = [grpc.StatusCode.INVALID_ARGUMENT]
        one.host.crash()
        report = await one.until(lambda r: r.failure.message == "not today")
        assert report.phase == Phase.PHASE_ERROR
        for _ in range(3):
            await one.reconciler._pass()
        assert simulated.prepares == [1]
        await one.reconciler.offer(repository.signed(2))  # a reason to try again
        await one.until(lambda r: any(w.ready for w in r.workloads))


async def test_a_refreshed_order_leaves_the_previous_generation_in_place(
    folder: Path, repository: Repository
) -> None:
    workload = repository.workload(model=b"second", n=2)
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1, n=1))
        await one.settled(1)
        for generation in (2, 3):
            order = repository.order(generation, workload, template="t")
            await one.reconciler.offer(repository.sign(order))
            await one.settled(generation)
        state = one.parts.journal.state
        assert (state.current, state.previous) == (3, 1)
        assert (folder / "gen" / "1.bin").exists()
        assert len(list((folder / "cas").iterdir())) == 5


async def lose_and_load(one: Device, incarnation: int) -> None:
    """End the runtime; wait for the one with that number to serve."""
    one.host.crash()
    await one.until(lambda _: one.host.process.incarnation == incarnation)
    await one.until(lambda r: any(w.ready for w in r.workloads))


async def test_a_generation_that_ends_runtimes_while_it_serves_is_left(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        for generation in (1, 2):
            await one.reconciler.offer(repository.signed(generation, n=generation))
            await one.settled(generation)
        for incarnation in range(2, 2 + CRASH_LOOP):
            await lose_and_load(one, incarnation)
        report = await one.until(
            lambda r: r.running_generation == 1 and any(w.ready for w in r.workloads)
        )
        assert report.result == Result.RESULT_FAILED_ROLLBACK_COMPLETE
        assert report.phase == Phase.PHASE_ERROR
        assert "3 runtimes in a row" in report.failure.message


async def test_a_runtime_that_was_stable_ends_no_series(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        for generation in (1, 2):
            await one.reconciler.offer(repository.signed(generation, n=generation))
            await one.settled(generation)
        stable = replace(one.parts, timing=replace(one.parts.timing, runtime_stable=0))
        one.reconciler._restorer._parts = stable
        for incarnation in range(2, 3 + CRASH_LOOP):
            await lose_and_load(one, incarnation)
        assert one.parts.journal.state.current == 2


async def test_a_revert_that_fails_is_done_by_a_new_runtime(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        one.host.simulated.refusals["Revert"] = [grpc.StatusCode.INTERNAL]
        await one.reconciler.offer(repository.signed(2, fail="not-ready"))
        report = await one.settled(2)
        assert report.result == Result.RESULT_FAILED_ROLLBACK_COMPLETE
        assert one.host.process.incarnation == 2
        assert serving(one) == 1
        assert one.host.simulated.prepares == [1]  # and is not loaded once more


async def test_a_runtime_that_does_not_answer_while_loading_is_replaced(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        simulated = one.host.simulated
        simulated.refusals["Prepare"] = [grpc.StatusCode.DEADLINE_EXCEEDED]
        await one.reconciler.offer(repository.signed(2, n=2))
        report = await one.settled(2)
        assert report.running_generation == 2
        assert one.host.process.incarnation == 2
        assert simulated.prepares == [1, 2]


async def test_what_cannot_be_recorded_as_committed_is_rolled_back(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        journal = one.parts.journal
        commit = journal.commit

        def refuse(generation: int, *, result: int) -> None:
            raise StateError("journal: expected a usable one, found I/O error")

        journal.commit = refuse  # type: ignore[method-assign]  # a fault
        await one.reconciler.offer(repository.signed(2, n=2))
        report = await one.until(lambda r: r.failure.code == "DATA_LOSS")
        assert (report.running_generation, serving(one)) == (1, 1)
        journal.commit = commit  # type: ignore[method-assign]  # healed
        await one.until(
            lambda r: r.running_generation == 2 and r.phase == Phase.PHASE_UPDATED
        )


async def test_a_device_without_means_for_an_order_tries_it_a_few_times(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        exhausted = [grpc.StatusCode.RESOURCE_EXHAUSTED] * MAX_ATTEMPTS
        one.host.simulated.refusals["Prepare"] = exhausted
        await one.reconciler.offer(repository.signed(2, n=2))
        report = await one.until(lambda r: r.failure.code == "RESOURCE_EXHAUSTED")
        assert report.phase == Phase.PHASE_PREPARING
        report = await one.settled(2)
        assert report.failure.code == "ABORTED"
        assert "the last one: not today" in report.failure.message
        assert (report.running_generation, serving(one)) == (1, 1)


async def test_trouble_with_the_old_generation_is_no_verdict_about_the_next(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        await one.reconciler.offer(repository.signed(2, n=2))
        for task in one.tasks:
            task.cancel()
        await asyncio.gather(*one.tasks, return_exceptions=True)
        one.reconciler._restorer.trouble = Failure(code="DATA_LOSS")
        report = one.reconciler._report()
        assert (report.generation, report.phase) == (2, Phase.PHASE_PREPARING)
        assert report.failure.code == "DATA_LOSS"


async def test_a_runtime_that_ends_during_a_download_is_not_left_without_workloads(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        stuck = asyncio.Event()

        async def never(blob: Blob) -> None:
            stuck.set()
            await asyncio.Event().wait()

        one.parts.fetcher.fetch = never  # type: ignore[method-assign]  # a fault
        await one.reconciler.offer(repository.signed(2, n=2))
        await stuck.wait()
        one.host.crash()
        await one.until(lambda _: one.host.process.incarnation == 2)
        await one.until(lambda r: any(w.ready for w in r.workloads))
        assert serving(one) == 1


def _odd_datatype(document: dict[str, Any]) -> None:
    document["inputs"][0]["datatype"] = ["FP32"]


def _surrogate(document: dict[str, Any]) -> None:
    document["inputs"][0]["name"] = "\ud800"


@pytest.mark.parametrize("change", [_odd_datatype, _surrogate])
async def test_an_odd_statement_is_refused_and_the_device_goes_on(
    folder: Path, repository: Repository, change: Callable[[dict[str, Any]], None]
) -> None:
    workload = repository.workload(n=2)
    document = json.loads(workload.model.statement.payload)
    change(document)
    payload = json.dumps(document).encode()
    signed = dsse.sign(payload, dsse.ARTIFACT_TYPE, repository.publisher)
    workload.model.statement.CopyFrom(signed)
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1))
        await one.settled(1)
        await one.reconciler.offer(repository.sign(repository.order(2, workload)))
        report = await one.until(lambda r: r.refused_generation == 2)
        assert (report.failure.component, report.running_generation) == ("trust", 1)


async def test_a_mistake_of_ours_ends_neither_session_nor_passes(
    folder: Path, repository: Repository
) -> None:
    async with life(folder, repository) as one:
        verify = one.reconciler._verifier.verify_order

        def mistaken(*_: object, **__: object) -> VerifiedOrder:
            raise TypeError("unhashable")

        one.reconciler._verifier.verify_order = mistaken  # type: ignore[method-assign]  # a fault
        await one.reconciler.offer(repository.signed(1))
        report = await one.until(lambda r: r.refused_generation == 1)
        assert (report.failure.component, report.failure.code) == ("agent", "INTERNAL")
        one.reconciler._verifier.verify_order = verify  # type: ignore[method-assign]  # mended
        fetch = one.parts.fetcher.fetch
        one.parts.fetcher.fetch = mistaken  # type: ignore[method-assign,assignment]  # a fault
        await one.reconciler.offer(repository.signed(1))
        report = await one.until(lambda r: r.phase == Phase.PHASE_ERROR)
        assert "expected no TypeError" in report.failure.message
        one.parts.fetcher.fetch = fetch  # type: ignore[method-assign]  # mended
        await one.until(lambda r: r.phase == Phase.PHASE_UPDATED)


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE], ids=["rotten", "busy"])
async def test_an_artifact_that_the_disk_does_not_give_back_is_as_good_as_gone(
    folder: Path,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    second = repository.workload(model=b"second", n=2)
    async with life(folder, repository) as one:
        await one.reconciler.offer(repository.signed(1, n=1))
        await one.settled(1)
        await one.reconciler.offer(repository.sign(repository.order(2, second)))
        await one.settled(2)
    bad = folder / "cas" / second.model.sha256
    read = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == bad:
            raise OSError(code, os.strerror(code))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    async with device(folder, repository.keys, repository.blobs, run=False) as two:
        assert two.parts.journal.state.current == 1
        assert bad.exists() == (code == errno.EMFILE)
