# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the real supervisor during updates: then the old or the new, whole."""

import asyncio
import random
import signal
from collections.abc import Callable
from pathlib import Path

from kedge_wire.v1.report_pb2 import Phase, Report
from tests.simulators.agent import Site, site

PHASES = (
    Phase.PHASE_PREPARING,
    Phase.PHASE_READY_TO_UPDATE,
    Phase.PHASE_APPLYING_UPDATE,
    Phase.PHASE_ACTIVATING,
    Phase.PHASE_VERIFYING,
    Phase.PHASE_UPDATED,
)


def reached(generation: int, phase: Phase.ValueType) -> Callable[[Report], bool]:
    return lambda r: r.generation == generation and r.phase >= phase


async def put(place: Site, generation: int) -> None:
    await place.gateway.put(place.repository.signed(generation, n=generation))


async def updated(place: Site, generation: int) -> None:
    await place.gateway.until(
        lambda r: (r.running_generation, r.phase) == (generation, Phase.PHASE_UPDATED),
        timeout_s=40,
    )


async def check_old_or_new_and_finish(place: Site, generation: int) -> None:
    """Restart; the first answer is of one generation, the last of the newest."""
    async with place.agent() as agent:
        await agent.serving()
        found = await agent.ask()
        assert found["generation"] in {generation - 1, generation}
        assert found["configs"] == {"digits": {"n": found["generation"]}}
        await updated(place, generation)
        found = await agent.ask()
        assert found["configs"] == {"digits": {"n": generation}}


async def test_a_kill_in_any_phase_leaves_the_old_or_the_new_generation(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as place:
        async with place.agent() as agent:
            await agent.serving()
            await put(place, 1)
            await updated(place, 1)
        for generation, phase in enumerate(PHASES, start=2):
            async with place.agent() as agent:
                await agent.serving()
                await put(place, generation)
                await place.gateway.until(reached(generation, phase))
                await agent.end(signal.SIGKILL)
            await check_old_or_new_and_finish(place, generation)


async def test_kills_at_drawn_moments_leave_the_old_or_the_new_generation(
    tmp_path: Path,
) -> None:
    rng = random.Random(11)
    async with site(tmp_path) as place:
        async with place.agent() as agent:
            await agent.serving()
            await put(place, 1)
            await updated(place, 1)
        for generation in range(2, 8):
            async with place.agent() as agent:
                await agent.serving()
                await agent.ask()
                await put(place, generation)
                # The moment is what is drawn here; nothing is waited for.
                await asyncio.sleep(rng.uniform(0, 0.3))
                await agent.end(signal.SIGKILL)
            await check_old_or_new_and_finish(place, generation)
