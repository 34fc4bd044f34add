# SPDX-License-Identifier: Apache-2.0
"""What a device does with orders, step by step, in one process."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer._crypto_signer import CryptoSigner

from kedge_agent.fetch.base import Blob
from kedge_agent.update import MAX_ATTEMPTS
from kedge_wire.v1.report_pb2 import Phase, Result
from tests.simulators.device import device
from tests.simulators.repository import Repository
from tests.unit.agent.supervisor.lives import life, serving


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
