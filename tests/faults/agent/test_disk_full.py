# SPDX-License-Identifier: Apache-2.0
"""A disk that is full at any write of an update: the old generation serves on."""

import errno
import resource
from pathlib import Path

import pytest

from kedge_agent.disk import OsFs
from kedge_wire.v1.report_pb2 import Phase
from tests.simulators.agent import site
from tests.simulators.device import device
from tests.simulators.repository import Repository


class FullFs(OsFs):
    """Writes, and syncs of files, fail from the `room`-th on, halfway through."""

    room: int | None = None

    def write(self, path: Path, data: bytes, *, offset: int, mode: int) -> None:
        if self._is_full():
            super().write(path, data[: len(data) // 2], offset=offset, mode=mode)
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(path, data, offset=offset, mode=mode)

    def sync(self, path: Path) -> None:
        if path.is_file() and self._is_full():
            raise OSError(errno.ENOSPC, "No space left on device")
        super().sync(path)

    def _is_full(self) -> bool:
        if self.room is None:
            return False
        self.room -= 1
        return self.room < 0


@pytest.mark.parametrize("room", range(6))
async def test_an_update_waits_for_room_and_the_old_generation_serves(
    tmp_path: Path, room: int
) -> None:
    repository, fs = Repository(), FullFs()
    async with device(tmp_path, repository.keys, repository.blobs, fs=fs) as one:
        await one.reconciler.offer(repository.signed(1, n=1))
        await one.settled(1)
        fs.room = room
        order = repository.signed(2, n=2)
        await one.reconciler.offer(order)
        report = await one.until(lambda r: r.failure.code == "RESOURCE_EXHAUSTED")
        assert report.failure.component == "disk"
        assert (report.running_generation, report.refused_generation) == (1, 0)
        serving = one.host.simulated.serving
        assert serving is not None
        assert serving.number == 1
        fs.room = None
        await one.reconciler.offer(order)  # as a control plane does while we are behind
        report = await one.until(
            lambda r: r.running_generation == 2 and r.phase == Phase.PHASE_UPDATED
        )
        assert not report.HasField("failure")


async def test_a_process_that_may_not_write_more_serves_and_recovers(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as place, place.agent() as agent:
        await agent.serving()
        await place.gateway.put(place.repository.signed(1, n=1))
        await place.gateway.until(lambda r: r.running_generation == 1)
        pid, kind = agent.process.pid, resource.RLIMIT_FSIZE
        before = resource.prlimit(pid, kind, (1024 * 1024, resource.RLIM_INFINITY))
        large = place.repository.workload(model=bytes(3 * 1024 * 1024), n=2)
        order = place.repository.order(2, large)
        await place.gateway.put(place.repository.sign(order))
        await place.gateway.until(lambda r: r.failure.code == "RESOURCE_EXHAUSTED")
        assert (await agent.ask())["generation"] == 1
        resource.prlimit(pid, kind, before)
        await place.gateway.until(lambda r: r.running_generation == 2)
        assert (await agent.ask())["generation"] == 2
