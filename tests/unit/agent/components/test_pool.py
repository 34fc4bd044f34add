# SPDX-License-Identifier: Apache-2.0
"""Pools under load, and with components that trap, loop, lie or hoard."""

import asyncio
import gc
import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import numpy as np
import pytest

from kedge_agent.components.calls import CallError
from kedge_agent.components.engine import CompiledComponent, ComponentEngine
from kedge_agent.components.instance import Instance, InstanceLimits
from kedge_agent.components.worker import Job, Worker
from kedge_agent.errors import (
    ComponentError,
    ConfigError,
    GuestError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RequestError,
    TrapError,
)
from kedge_agent.host.log import GuestLog
from kedge_agent.inference.base import LoadedModel
from tests.unit.agent.components.conftest import PoolMaker
from tests.unit.agent.components.guests import OK, PASS_ON, REFUSED, guest

RAW: Final = np.arange(12, dtype=np.uint8)
CONFIG: Final = json.dumps(
    {
        "width": 2,
        "height": 2,
        "channels": 3,
        "input": "image",
        "output": "scores",
        "layout": "NHWC",
        "topK": 1,
    }
)
KEEP_THE_FIRST: Final = f"""
    (if (i32.eqz (global.get $kept))
      (then (global.set $kept (local.get 0)) (return {OK})))"""
FOREVER: Final = "(loop $again (br $again)) (unreachable)"


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_answers_under_concurrency_belong_to_their_requests(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=CONFIG, size=2, waiting=400)

    async def ask(best: int) -> int:
        raw = np.zeros(12, np.uint8)
        raw[best] = 255
        return int(dict(await pool.infer(raw, {}))["index"][0])

    wanted = [number % 12 for number in range(300)]
    assert await asyncio.gather(*map(ask, wanted)) == wanted


async def test_a_component_that_traps_is_replaced_and_serves_the_next_request(
    pools: PoolMaker,
) -> None:
    # Traps on a raw input of one element; `kept` shows that the instance is a new one.
    trap_on_one = f"""
        (global.set $kept (i32.add (global.get $kept) (i32.const 1)))
        (call $shape (local.get 0) (i32.const 1024))
        (if (i32.eq (i32.load (i32.load (i32.const 1024))) (i32.const 1))
          (then (unreachable)))
        (if (i32.gt_u (global.get $kept) (i32.const 1)) (then (unreachable)))
        {OK}"""
    pool = await pools(guest(preprocess=trap_on_one))

    with pytest.raises(TrapError, match="unreachable"):
        await pool.infer(RAW[:1], {})
    assert await pool.infer(RAW, {}) == []


async def test_an_endless_loop_is_stopped_at_its_deadline_and_replaced(
    pools: PoolMaker,
) -> None:
    pool = await pools(guest(forward=FOREVER), wall_time_s=0.1)

    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(OverloadedError, match="the component was stopped"):
            await pool.infer(RAW, {})
    assert 0.2 <= time.monotonic() - began < 2


async def test_a_loop_in_one_instance_does_not_stop_the_others(
    pools: PoolMaker,
) -> None:
    loop_on_one = f"""
        (call $shape (local.get 0) (i32.const 1024))
        (if (i32.eq (i32.load (i32.load (i32.const 1024))) (i32.const 1))
          (then (loop $again (br $again))))
        {OK}"""
    pool = await pools(guest(preprocess=loop_on_one), size=2, wall_time_s=0.5)

    looping = asyncio.create_task(pool.infer(RAW[:1], {}))
    answers = [await pool.infer(RAW, {}) for _ in range(20)]

    assert answers == [[]] * 20
    assert not looping.done()
    with pytest.raises(OverloadedError):
        await looping


async def test_requests_beyond_the_queue_are_refused_at_once(pools: PoolMaker) -> None:
    pool = await pools(guest(preprocess=FOREVER), wall_time_s=0.2, waiting=2)

    answers = await asyncio.gather(
        *(pool.infer(RAW, {}) for _ in range(5)), return_exceptions=True
    )

    texts = sorted(str(answer) for answer in answers)
    assert texts[:2] == ["component: expected at most 3 requests at a time"] * 2
    # Waiting counts: nobody gets more than the time from being admitted.
    assert sum("was over before it began" in text for text in texts) == 2
    assert sum("the component was stopped" in text for text in texts) == 1


async def test_a_cancelled_caller_leaves_the_pool_working(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=CONFIG)

    for _ in range(20):
        request = asyncio.create_task(pool.infer(RAW, {}))
        await asyncio.sleep(0)
        request.cancel()
    assert len(await pool.infer(RAW, {})) == 3


async def test_close_answers_what_was_admitted_and_refuses_the_rest(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=CONFIG)
    admitted = [asyncio.create_task(pool.infer(RAW, {})) for _ in range(10)]
    await asyncio.sleep(0)

    await pool.close()

    assert [len(await request) for request in admitted] == [3] * 10
    with pytest.raises(OverloadedError, match="found it closed"):
        await pool.infer(RAW, {})


@pytest.mark.parametrize(
    ("case", "expected"),
    list(
        enumerate(
            [
                InvalidRequestError,
                NotFoundError,
                GuestError,
                OverloadedError,
                GuestError,
            ]
        )
    ),
    ids=["invalid-argument", "not-found", "unsupported", "exhausted", "internal"],
)
async def test_an_error_of_the_component_reaches_the_caller_by_whose_fault_it_is(
    pools: PoolMaker, case: int, expected: type[RequestError]
) -> None:
    pool = await pools(guest(postprocess=REFUSED.format(case=case)))

    with pytest.raises(RequestError, match=r"^guest!$") as caught:
        await pool.infer(RAW, {})
    assert type(caught.value) is expected


async def test_health_says_what_the_component_says(pools: PoolMaker) -> None:
    healthy = await pools(guest())
    ill = await pools(guest(health=REFUSED.format(case=4)))

    await healthy.health()
    with pytest.raises(GuestError, match="guest!"):
        await ill.health()


async def test_a_health_that_never_answers_is_ill_and_not_busy(
    pools: PoolMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kedge_agent.components.pool.HEALTH_S", 0.1)
    pool = await pools(guest(health=FOREVER))

    with pytest.raises(GuestError, match="the component was stopped"):
        await pool.health()


async def test_health_that_waits_too_long_for_an_instance_says_nothing(
    pools: PoolMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kedge_agent.components.pool.HEALTH_S", 0.05)
    pool = await pools(guest(preprocess=FOREVER), wall_time_s=0.3)

    looping = asyncio.create_task(pool.infer(RAW, {}))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="every instance is busy"):
        await pool.health()
    with pytest.raises(OverloadedError):
        await looping


async def test_a_configuration_that_is_no_unicode_is_refused(pools: PoolMaker) -> None:
    with pytest.raises(ConfigError, match="config: expected Unicode"):
        await pools(guest(), config='{"unit": "\ud800"}')


@pytest.mark.parametrize(
    "error", [MemoryError("full"), CallError("link"), ComponentError("no")]
)
async def test_an_instance_that_cannot_be_replaced_leaves_no_request_unanswered(
    shipped: CompiledComponent, model: LoadedModel, error: Exception
) -> None:
    turn = itertools.count()

    def make() -> Instance:
        if next(turn) in (1, 2):
            raise error
        return Instance(
            shipped,
            models={"default": model},
            limits=InstanceLimits(),
            log=GuestLog(tenant="acme", workload="camera"),
            deadline=time.monotonic() + 5,
        )

    def break_it(instance: Instance) -> None:
        instance.broken = True

    jobs: SimpleQueue[Job | None] = SimpleQueue()
    worker = Worker(make, jobs, name="component-0")
    await worker.start()
    loop = asyncio.get_running_loop()
    settled: list[int] = []
    answers = [loop.create_future() for _ in range(3)]
    for number, answer in enumerate(answers):

        def settle(number: int = number) -> None:
            settled.append(number)

        jobs.put(Job(call=break_it, answer=answer, settled=settle, loop=loop))
    jobs.put(None)

    results = await asyncio.gather(*answers, return_exceptions=True)
    await worker.ended()

    assert settled == [0, 1, 2]
    assert [type(result) for result in results] == [
        type(None),
        TrapError,  # neither the replacement nor its second try
        type(None),
    ]


async def test_a_host_function_past_the_deadline_does_no_work(
    pools: PoolMaker,
) -> None:
    # Straight on through calls of the host: no loop in which an epoch could stop it.
    again = """
        (call $infer (i32.load (i32.const 1028)) (local.get 0) (local.get 1)
          (i32.const 2048))"""
    slow = SlowModel(inputs=(), outputs=(), providers=("slow",))
    body = f"""
        (call $load (i32.const 264) (i32.const 7) (i32.const 1024))
        {again * 20} (i32.const 2048)"""
    pool = await pools(guest(forward=body), models={"default": slow}, wall_time_s=0.2)

    with pytest.raises(OverloadedError):
        await pool.infer(RAW, {})
    assert slow.runs <= 3


async def test_a_refused_configuration_stops_the_start_and_frees_every_thread(
    pools: PoolMaker,
) -> None:
    with pytest.raises(ConfigError, match="config: guest!"):
        await pools(guest(configure=REFUSED.format(case=0)), size=2)


async def test_a_component_that_traps_on_its_start_is_refused(pools: PoolMaker) -> None:
    with pytest.raises(ComponentError, match="cannot be instantiated"):
        await pools(guest(start="(unreachable)"))


@pytest.mark.parametrize("function", ["metadata", "configure"])
async def test_a_component_that_traps_before_it_serves_is_refused(
    pools: PoolMaker, function: str
) -> None:
    with pytest.raises(ComponentError, match=r"cannot be started: .*unreachable"):
        await pools(guest(**{function: "(unreachable)"}))


async def test_a_component_with_a_second_memory_is_refused(pools: PoolMaker) -> None:
    with pytest.raises(ComponentError, match="memory count too high"):
        await pools(guest(more="(memory 1)"))


async def test_a_component_larger_than_its_memory_limit_is_refused(
    pools: PoolMaker,
) -> None:
    with pytest.raises(ComponentError, match="memory"):
        await pools(guest(), memory_bytes=1024)


async def test_memory_grows_to_the_limit_and_no_further(pools: PoolMaker) -> None:
    # 31 pages more make 2 MiB; one beyond is refused, or the instance would trap here.
    grow = f"""
        (if (i32.eq (memory.grow (i32.const 31)) (i32.const -1)) (then (unreachable)))
        (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
        {OK}"""
    pool = await pools(guest(preprocess=grow), memory_bytes=2 * 1024 * 1024)

    assert await pool.infer(RAW, {}) == []


async def test_parameters_that_are_no_unicode_are_refused(pools: PoolMaker) -> None:
    pool = await pools(guest())

    with pytest.raises(InvalidRequestError, match="parameters: expected Unicode"):
        await pool.infer(RAW, {"mode": "\ud800"})
    assert await pool.infer(RAW, {"mode": "schnell ⚡"}) == []


async def test_a_tensor_of_an_earlier_request_means_nothing(pools: PoolMaker) -> None:
    keep_then_use = f"""
        {KEEP_THE_FIRST}
        (call $read (global.get $kept) (i32.const 1024))
        {PASS_ON}"""
    pool = await pools(guest(preprocess=keep_then_use))

    assert await pool.infer(RAW, {}) == []
    with pytest.raises(InvalidRequestError, match="one of this request"):
        await pool.infer(RAW, {})


async def test_a_component_that_hoards_tensors_reaches_the_bound(
    pools: PoolMaker,
) -> None:
    # Reshapes its input to itself until the host refuses, then answers that refusal.
    hoard = f"""
        (i32.store (i32.const 1100) (i32.const 12))
        (loop $again
          (call $reshape (local.get 0) (i32.const 1100) (i32.const 1) (i32.const 1024))
          (br_if $again (i32.eqz (i32.load8_u (i32.const 1024)))))
        {PASS_ON}"""
    pool = await pools(guest(preprocess=hoard))

    for _ in range(
        70
    ):  # 1024 abandoned handles each: the instance is replaced on the way
        with pytest.raises(OverloadedError, match="at most 1024 at a time"):
            await pool.infer(RAW, {})


async def test_a_handle_that_is_none_traps(pools: PoolMaker) -> None:
    pool = await pools(guest(preprocess=f"(call $drop (i32.const 77)) {OK}"))

    with pytest.raises(TrapError, match="unknown handle index"):
        await pool.infer(RAW, {})


async def test_a_host_function_without_an_error_traps_instead(pools: PoolMaker) -> None:
    shape_of_old = f"""
        {KEEP_THE_FIRST}
        (call $shape (global.get $kept) (i32.const 1024)) (unreachable)"""
    pool = await pools(guest(preprocess=shape_of_old))

    await pool.infer(RAW, {})
    with pytest.raises(TrapError, match=r"tensor.shape: tensor: expected one of this"):
        await pool.infer(RAW, {})


async def test_creating_a_tensor_above_a_mebibyte_is_refused(pools: PoolMaker) -> None:
    create = f"""
        (drop (memory.grow (i32.const 20)))
        (i32.store (i32.const 1100) (i32.const 1048577))
        (call $create (i32.const 1100) (i32.const 1) (i32.const 1)
          (i32.const 0) (i32.const 1048577) (i32.const 1024))
        {PASS_ON}"""
    pool = await pools(guest(preprocess=create))

    with pytest.raises(OverloadedError, match="at most 1048576"):
        await pool.infer(RAW, {})


def load_and_infer(*, name: int, length: int) -> str:
    """Open the model named at `name` in memory, and run it on the inputs given."""
    return f"""
        (call $load (i32.const {name}) (i32.const {length}) (i32.const 1024))
        (if (i32.load8_u (i32.const 1024)) (then {PASS_ON} (return)))
        (call $infer (i32.load (i32.const 1028))
          (local.get 0) (local.get 1) (i32.const 2048))
        (i32.const 2048)"""


async def test_a_model_that_is_not_granted_is_not_found(pools: PoolMaker) -> None:
    pool = await pools(guest(forward=load_and_infer(name=256, length=6)))

    with pytest.raises(NotFoundError, match="'guest!': expected one of default"):
        await pool.infer(RAW, {})


async def test_a_model_refuses_missing_inputs_to_the_component(
    pools: PoolMaker,
) -> None:
    pool = await pools(guest(forward=load_and_infer(name=264, length=7)))

    with pytest.raises(InvalidRequestError, match="expected image, found none"):
        await pool.infer(RAW, {})


class SlowModel(LoadedModel):
    """Takes longer than the request may."""

    runs = 0

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        time.sleep(0.15)
        return dict(inputs)

    def _close(self) -> None:
        pass


async def test_a_model_that_outlasts_the_request_is_out_of_time(
    pools: PoolMaker,
) -> None:
    slow = SlowModel(inputs=(), outputs=(), providers=("slow",))
    pool = await pools(
        guest(forward=load_and_infer(name=264, length=7)),
        models={"default": slow},
        wall_time_s=0.1,
    )

    with pytest.raises(OverloadedError):
        await pool.infer(RAW, {})


async def test_memory_returns_after_thousands_of_requests(
    pools: PoolMaker, shipped: CompiledComponent
) -> None:
    pool = await pools(shipped, config=CONFIG)

    async def ask(count: int) -> int:
        for _ in range(count):
            await pool.infer(RAW, {})
        return resident_bytes()

    before = await ask(500)
    assert await ask(3000) - before < 1024 * 1024


async def test_memory_returns_with_closed_instances(
    engine: ComponentEngine, shipped: CompiledComponent, model: LoadedModel
) -> None:
    log = GuestLog(tenant="acme", workload="camera")

    def live(count: int) -> int:
        for _ in range(count):
            deadline = time.monotonic() + 5
            with Instance(
                shipped,
                models={"default": model},
                limits=InstanceLimits(),
                log=log,
                deadline=deadline,
            ) as instance:
                instance.configure(CONFIG, deadline=deadline)
        return resident_bytes()

    before = live(50)
    assert live(200) - before < 2 * 1024 * 1024
