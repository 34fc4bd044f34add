# SPDX-License-Identifier: Apache-2.0
"""What a device does when its runtime, disk or network fails it."""

import asyncio
import errno
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

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
from tests.unit.agent.supervisor.lives import life, serving


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
