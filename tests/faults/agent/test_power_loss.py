# SPDX-License-Identifier: Apache-2.0
"""Power cuts in the middle of updates, on a disk that keeps only what was synced.

Each episode is several lives of one device: the real store, journal, verifier,
reconciler and control protocol take an order; the power goes after a drawn number of
changes to the disk; what the next life finds must be a whole generation, never an older
one than was committed, and the newest order must still be reached. SQLite's own
durability is taken for granted: the journal's file is left as it is.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kedge_wire.v1.order_pb2 import Envelope
from kedge_wire.v1.report_pb2 import Phase, Report
from tests.simulators.device import Device, device
from tests.simulators.power import PowerCutError, PowerFs
from tests.simulators.repository import Repository

EPISODES = 300
BATCH = 50
LIVES = 2
CHANGES = 45
"""More than an update makes, so that some episodes see no cut at all."""


class LostError(Exception):
    """The device broke its promise."""


@dataclass
class Known:
    """What the device has said, and must not take back."""

    floor: int = 0
    committed: int = 0
    orders: list[Envelope] = field(default_factory=list)


@pytest.fixture(scope="module")
def repository() -> Repository:
    return Repository()


@pytest.fixture(scope="module")
def orders(repository: Repository) -> list[Envelope]:
    return [repository.signed(n, n=n % 3) for n in range(1, LIVES + 3)]


@pytest.mark.parametrize(
    "seeds",
    [range(start, start + BATCH) for start in range(0, EPISODES, BATCH)],
    ids=lambda seeds: f"from-{seeds.start}",
)
async def test_after_a_power_cut_a_whole_generation_serves(
    tmp_path: Path, repository: Repository, orders: list[Envelope], seeds: range
) -> None:
    for seed in seeds:
        folder = make_folder(tmp_path, seed)
        await episode(folder, repository, orders, seed=seed)


@pytest.mark.parametrize("forgets", ["file", "directory"])
async def test_the_model_notices_a_forgotten_sync(
    tmp_path: Path, repository: Repository, orders: list[Envelope], forgets: str
) -> None:
    for seed in range(200):
        folder = make_folder(tmp_path, seed)
        try:
            await episode(folder, repository, orders, seed=seed, forgets=forgets)
        except LostError:
            return
    pytest.fail(f"200 episodes without {forgets} sync lost nothing")


def make_folder(tmp_path: Path, seed: int) -> Path:
    folder = tmp_path / str(seed)
    folder.mkdir()
    return folder


async def episode(
    folder: Path,
    repository: Repository,
    orders: list[Envelope],
    *,
    seed: int,
    forgets: str = "",
) -> None:
    rng = random.Random(seed)
    fs, known = PowerFs(rng=rng, forgets=forgets), Known()
    for generation, order in enumerate(orders[:LIVES], start=1):
        fs.cut_after = rng.randrange(CHANGES)
        try:
            async with device(folder, repository.keys, repository.blobs, fs=fs) as one:
                check(one, known, seed)
                await live(one, order, known, reached(generation))
        except PowerCutError:
            pass
        fs.restart_after_cut()
    async with device(folder, repository.keys, repository.blobs, fs=fs) as last:
        check(last, known, seed)
        await last.reconciler.offer(orders[LIVES])
        await last.until(reached(LIVES + 1))


def reached(generation: int) -> Callable[[Report], bool]:
    return lambda r: (
        r.running_generation == generation and r.phase == Phase.PHASE_UPDATED
    )


async def live(
    one: Device, order: Envelope, known: Known, done: Callable[[Report], bool]
) -> None:
    """Take an order and finish it, unless the power goes; then the tasks fail."""
    try:
        await one.reconciler.offer(order)
        settled = asyncio.create_task(one.until(done))
        await asyncio.wait({settled, *one.tasks}, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        await asyncio.gather(settled, return_exceptions=True)
        for task in one.tasks:
            if task.done():
                task.result()
    finally:
        state = one.parts.journal.state
        known.floor = max(known.floor, state.floor)
        known.committed = max(known.committed, state.current)


def check(one: Device, known: Known, seed: int) -> None:
    """What a start finds keeps what earlier lives said."""
    state = one.parts.journal.state
    if state.floor < known.floor or state.current < known.committed or state.trial:
        raise LostError(f"seed {seed}: {state} after {known}")
    if state.current and not one.reconciler.serves:
        raise LostError(f"seed {seed}: generation {state.current} does not serve")
    if one.reconciler.held_generation != state.floor:
        raise LostError(f"seed {seed}: the order of {state.floor} is lost")
