# SPDX-License-Identifier: Apache-2.0
"""Transactions, groups, their failures and what a crash leaves."""

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from kedge_controlplane.errors import (
    AlreadyExistsError,
    NotFoundError,
    SettingsError,
    TooManyRequestsError,
    UnavailableError,
)
from kedge_controlplane.model.device import Device
from kedge_controlplane.store import migrate
from kedge_controlplane.store.engine import writing_engine
from kedge_controlplane.store.reading import read_revision
from kedge_controlplane.store.store import Store
from kedge_controlplane.store.transaction import Transaction
from kedge_controlplane.store.watch import EventLog, Watch
from kedge_controlplane.store.writer import GROUP_LIMIT, QUEUE_LIMIT, Writer
from tests.unit.controlplane.store.objects import device


async def test_a_work_is_committed_whole_or_not_at_all(store: Store) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.create(device("d-1"))
        assert (await transaction.list(Device)).items
        await transaction.create(device("d-1"))

    with pytest.raises(AlreadyExistsError):
        await store.write(work)
    with pytest.raises(NotFoundError):
        await store.get(Device, "default", "d-1")
    assert await store.revision() == 0


async def test_a_failed_work_does_not_harm_its_group(store: Store) -> None:
    results = await asyncio.gather(
        store.create(device("d-1")),
        store.create(device("d-1")),
        store.create(device("d-2")),
        return_exceptions=True,
    )
    assert isinstance(results[1], AlreadyExistsError)
    page = await store.list(Device)
    versions = [found.metadata.resource_version for found in page.items]
    assert versions == ["1", "2"]


async def test_works_that_wait_together_share_a_commit(store: Store) -> None:
    commits = []
    event.listen(
        store._writers.sync_engine, "commit", lambda _: commits.append("COMMIT")
    )
    await asyncio.gather(
        *(store.create(device(f"d-{number}")) for number in range(GROUP_LIMIT))
    )
    assert len(commits) <= 2  # the first may go alone


async def test_versions_are_in_the_order_of_commits(store: Store) -> None:
    watch = store.watch(Device)
    await asyncio.gather(
        *(store.create(device(f"d-{number}")) for number in range(100))
    )
    seen = [
        event_.resource_version for _ in range(100) if (event_ := await watch.next(5))
    ]
    assert seen == list(range(1, 101))
    assert await store.revision() == 100


async def test_a_work_may_not_wait_for_another_write(store: Store) -> None:
    async def work(transaction: Transaction) -> None:
        await store.create(device("d-1"))

    with pytest.raises(RuntimeError, match="use its transaction"):
        await store.write(work)


async def test_a_full_queue_refuses_and_recovers(store: Store) -> None:
    writes = [
        asyncio.ensure_future(store.create(device(f"d-{number}")))
        for number in range(QUEUE_LIMIT + 1)
    ]
    results = await asyncio.gather(*writes, return_exceptions=True)
    refused = [one for one in results if isinstance(one, TooManyRequestsError)]
    assert len(refused) == 1
    assert refused[0].retry_after_s == 1
    assert (await store.create(device("one-more"))).metadata.uid


async def test_a_caller_who_left_before_its_work_began_wrote_nothing(
    store: Store,
) -> None:
    gate = asyncio.Event()

    async def wait(transaction: Transaction) -> None:
        await gate.wait()

    first = asyncio.ensure_future(store.write(wait))
    second = asyncio.ensure_future(store.create(device("d-1")))
    third = asyncio.ensure_future(store.create(device("d-2")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, third)
    with pytest.raises(NotFoundError):
        await store.get(Device, "default", "d-1")


async def test_a_work_that_hangs_is_given_up_and_the_next_one_runs(url: str) -> None:
    await migrate.upgrade(url)
    engine = writing_engine(url)
    writer = Writer(
        engine,
        EventLog(newest=0),
        clock=lambda: datetime.now(UTC),
        work_limit_s=0.05,
    )

    async def hang(transaction: Transaction) -> None:
        await transaction.create(device("d-1"))
        await asyncio.Event().wait()

    with pytest.raises(UnavailableError, match=r"longer than 0\.05 s"):
        await writer.submit(hang)
    made = await writer.submit(lambda transaction: transaction.create(device("d-1")))
    assert made.metadata.resource_version == "1"
    await writer.close()
    await engine.dispose()


async def test_whatever_a_commit_raises_the_next_write_is_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]

    async def revision(connection: AsyncConnection) -> int:
        if broken:
            broken.clear()
            raise RuntimeError("no SQLAlchemyError")
        return await read_revision(connection)

    monkeypatch.setattr("kedge_controlplane.store.writer.read_revision", revision)
    with pytest.raises(UnavailableError, match="did not commit"):
        await store.create(device("d-1"))
    await store.create(device("d-1"))
    await store.check()


async def test_a_store_whose_writer_ended_is_not_ready(store: Store) -> None:
    await store.check()
    store._writer._task.cancel()
    await asyncio.wait({store._writer._task})
    with pytest.raises(UnavailableError, match="takes no writes"):
        await store.check()


async def test_a_failing_database_takes_the_group_and_nothing_else(
    store: Store,
) -> None:
    watch = store.watch(Device)

    async def fail(transaction: Transaction) -> None:
        await transaction.create(device("d-2"))
        raise OperationalError("COMMIT", {}, OSError("disk I/O error"))

    results = await asyncio.gather(
        store.create(device("d-0")),
        store.create(device("d-1")),
        store.write(fail),
        return_exceptions=True,
    )
    assert any(isinstance(one, UnavailableError) for one in results)
    kept = [one.name for one in results if isinstance(one, Device)]
    assert [found.name for found in (await store.list(Device)).items] == kept
    await store.create(device("d-9"))
    names = [(await _next(watch)).name for _ in range(len(kept) + 1)]
    assert names == [*kept, "d-9"]


async def _next(watch: Watch[Device]) -> Device:
    found = await watch.next(5)
    assert found is not None
    return found.object


async def test_side_tables_are_written_in_the_same_transaction(store: Store) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.execute(text("INSERT INTO leases VALUES ('n', 'd', '2026')"))
        raise NotFoundError("no")

    with pytest.raises(NotFoundError):
        await store.write(work)
    assert await store.fetch(text("SELECT * FROM leases")) == []


async def test_a_closed_store_refuses_and_ends_its_watches(url: str) -> None:
    await migrate.upgrade(url)
    store = await Store.open(url)
    watch = store.watch(Device)
    queued = asyncio.ensure_future(store.create(device("d-1")))
    await asyncio.sleep(0)
    await store.close()
    assert (await queued).name == "d-1"
    assert [event_.object.name async for event_ in watch] == ["d-1"]
    with pytest.raises(UnavailableError, match="closed"):
        await store.create(device("d-2"))


@pytest.mark.parametrize(
    "url",
    ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "mysql://h/db", "?"],
)
async def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="expected"):
        await Store.open(url)


async def test_a_database_that_is_not_migrated_says_what_to_run(
    url: str,
) -> None:
    with pytest.raises(SettingsError, match="found an empty one: run `kedge migrate`"):
        await Store.open(url)


_WRITER = """
import asyncio, sys
from kedge_controlplane.store.store import Store
from tests.unit.controlplane.store.objects import device

async def main(url):
    store = await Store.open(url)
    async def one(number):
        async def work(transaction):
            await transaction.create(device(f"a-{number:04}"))
            await transaction.create(device(f"b-{number:04}"))
        await store.write(work)
        print(number, flush=True)
    for start in range(0, 100000, 20):
        await asyncio.gather(*(one(start + offset) for offset in range(20)))

asyncio.run(main(sys.argv[1]))
"""


async def test_what_was_answered_survives_a_kill_and_nothing_is_half(
    url: str,
) -> None:
    await migrate.upgrade(url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITER, url, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    answered = [await process.stdout.readline() for _ in range(65)]
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()
    store = await Store.open(url)
    names = {found.name for found in (await store.list(Device)).items}
    assert {f"a-{int(line):04}" for line in answered} <= names
    assert {name[1:] for name in names if name[0] == "a"} == {
        name[1:] for name in names if name[0] == "b"
    }
    assert await store.revision() == len(names)
    await store.close()
