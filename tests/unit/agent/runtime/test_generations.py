# SPDX-License-Identifier: Apache-2.0
"""Swaps with requests inside: who serves, who is freed, and who waits for whom."""

import asyncio

import numpy as np
import pytest

from kedge_agent.errors import CorruptArtifactError, NotFoundError
from kedge_agent.runtime.generations import Generations
from kedge_agent.serving.catalogue import Inference
from kedge_wire.v1.order_pb2 import Workload
from tests.unit.agent.components.guests import guest
from tests.unit.agent.runtime.conftest import (
    ASKS_ITS_MODEL,
    Cas,
    GatedBackend,
    instance_threads,
)

RAW = {"raw": np.zeros(3, np.uint8)}


async def serve(
    generations: Generations, cas: Cas, number: int, *workloads: Workload
) -> None:
    await generations.prepare(number, workloads, cas=cas.folder)
    await generations.activate(number)


def ask(generations: Generations) -> "asyncio.Task[Inference]":
    served = generations.get("digits")
    return asyncio.create_task(served.infer(RAW, parameters={}, timeout_s=30))


async def test_the_first_status_after_a_swap_is_what_the_component_said(
    generations: Generations, cas: Cas
) -> None:
    trapping = guest(health="(unreachable)")
    well, ill = cas.workload(name="a"), cas.workload(name="b", wasm=trapping)
    well.component.CopyFrom(cas.workload(wasm=guest()).component)
    await generations.prepare(1, [well, ill], cas=cas.folder)

    status = await generations.activate(1)

    assert [(one.name, one.ready) for one in status] == [("a", True), ("b", False)]
    assert [generations.get(name).ready for name in "ab"] == [True, False]


async def test_a_revert_returns_while_requests_of_the_abandoned_still_run(
    generations: Generations, gate: GatedBackend, cas: Cas
) -> None:
    await serve(generations, cas, 1, cas.workload(wasm=guest()))
    await serve(generations, cas, 2, cas.workload(wasm=ASKS_ITS_MODEL))
    gate.hold()
    request = ask(generations)
    await gate.held()

    await generations.revert(2)

    assert generations.serving_number == 1
    assert not request.done()
    assert gate.closed == 0
    gate.opened.set()
    await request
    await generations._reaper.done()
    assert gate.closed == 1


async def test_a_discarded_generation_is_freed_though_its_caller_has_gone(
    generations: Generations, gate: GatedBackend, cas: Cas
) -> None:
    await serve(generations, cas, 1, cas.workload(wasm=ASKS_ITS_MODEL))
    second = [cas.workload(wasm=guest())]
    await generations.prepare(2, second, cas=cas.folder)
    gate.hold()
    request = ask(generations)
    await gate.held()
    await generations.activate(2)

    discard = asyncio.create_task(generations.discard(1))
    await asyncio.sleep(0)
    discard.cancel()
    await asyncio.wait([discard])
    assert gate.closed == 0

    gate.opened.set()
    await request
    await generations._reaper.done()
    assert gate.closed == 1
    assert len(instance_threads()) == 1


async def test_closing_waits_for_what_is_being_reaped(
    generations: Generations, gate: GatedBackend, cas: Cas
) -> None:
    await serve(generations, cas, 1, cas.workload(wasm=ASKS_ITS_MODEL))
    gate.hold()
    request = ask(generations)
    await gate.held()
    await generations.revert(1)

    closing = asyncio.create_task(generations.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.opened.set()
    await closing

    assert request.done()
    assert gate.closed == 1
    assert not instance_threads()


async def test_status_answers_while_a_generation_is_prepared(
    generations: Generations, gate: GatedBackend, cas: Cas
) -> None:
    await serve(generations, cas, 1, cas.workload(wasm=guest()))
    gate.hold()
    second = [cas.workload(wasm=guest())]
    preparing = asyncio.create_task(generations.prepare(2, second, cas=cas.folder))
    await gate.held()

    (status,) = generations.status()

    assert status.ready
    assert generations.serving_number == 1
    gate.opened.set()
    await preparing


async def test_a_workload_in_two_generations_keeps_its_triple(
    generations: Generations, gate: GatedBackend, cas: Cas
) -> None:
    same, other = cas.workload(wasm=guest()), cas.workload(name="x", wasm=guest())
    await serve(generations, cas, 1, same, other)
    await serve(generations, cas, 2, same)
    await generations.discard(1)
    await generations._reaper.done()

    assert gate.closed == 1
    assert generations.names() == ["digits"]
    with pytest.raises(NotFoundError):
        generations.get("x")
    assert (await ask(generations)).outputs == []


async def test_a_swap_is_measured_where_a_triple_was_replaced(
    generations: Generations, cas: Cas
) -> None:
    same = cas.workload(name="same", wasm=guest())
    await serve(generations, cas, 1, same, cas.workload(wasm=guest()))
    assert [one.last_swap_micros for one in generations.status()] == [0, 0]

    await serve(generations, cas, 2, same, cas.workload(wasm=guest()))

    swapped = {one.name: one.last_swap_micros for one in generations.status()}
    assert swapped["same"] == 0
    assert swapped["digits"] > 0


async def test_a_generation_that_fails_halfway_leaves_nothing_loaded(
    generations: Generations, gate: GatedBackend, cas: Cas
) -> None:
    good, bad = cas.workload(name="a", wasm=guest()), cas.workload(name="b")
    cas.path(bad.component).unlink()

    with pytest.raises(CorruptArtifactError, match="not in the store"):
        await generations.prepare(1, [good, bad], cas=cas.folder)

    await generations._reaper.done()
    assert gate.closed == 1
    assert not instance_threads()
    assert generations.serving_number == 0
