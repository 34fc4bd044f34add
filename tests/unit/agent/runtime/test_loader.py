# SPDX-License-Identifier: Apache-2.0
"""What becomes a triple, what is refused, and that nothing stays behind."""

import asyncio
import logging
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from kedge_agent.components.engine import ComponentEngine
from kedge_agent.errors import ConfigError, ModelError, UnreadableError
from kedge_agent.runtime.loader import Loader
from kedge_wire.statement import MAX_CONFIG_BYTES
from kedge_wire.v1.order_pb2 import Limits
from tests.simulators import onnx_models
from tests.unit.agent.components.guests import REFUSED, guest
from tests.unit.agent.runtime.conftest import (
    ASKS_ITS_MODEL,
    Cas,
    GatedBackend,
    component,
    instance_threads,
)

RAW = {"raw": np.zeros(3, np.uint8)}


def only_multiples_of_seven() -> bytes:
    """Make a model whose free dimensions may not be 1."""
    proto = onnx_models.model(
        [helper.make_node("Reshape", ["x", "sevens"], ["y"])],
        [onnx_models.value("x", shape=["N", "M"])],
        [onnx_models.value("y", shape=["K", 7])],
        initializers=[helper.make_tensor("sevens", TensorProto.INT64, [2], [-1, 7])],
    )
    return bytes(proto.SerializeToString())


def enormous() -> bytes:
    """Make a model whose input takes 4 TiB."""
    shape = [1 << 20, 1 << 20]
    proto = onnx_models.model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [onnx_models.value("x", shape=shape)],
        [onnx_models.value("y", shape=shape)],
    )
    return bytes(proto.SerializeToString())


async def test_an_answer_names_the_version_that_gave_it(
    loader: Loader, cas: Cas
) -> None:
    workload = cas.workload(wasm=component())
    triple = await loader.load(workload, cas.folder)

    answer = await triple.infer(RAW, {})
    await triple.close()

    assert answer.version == workload.model.version
    assert answer.parameters["kedge_model_digest"] == workload.model.sha256
    assert not instance_threads()


async def test_a_model_that_does_not_fit_leaves_no_instance_behind(
    loader: Loader, cas: Cas
) -> None:
    workload = cas.workload(wasm=guest())  # asks for a model without inputs

    with pytest.raises(ModelError, match="does not fit") as caught:
        await loader.load(workload, cas.folder)

    assert caught.value.element == "digits/model"
    assert not instance_threads()


@pytest.mark.parametrize(
    ("model", "said"),
    [(only_multiples_of_seven(), "warm_up.failed"), (enormous(), "warm_up.left_out")],
    ids=["refuses-size-one", "too-large"],
)
async def test_a_model_that_cannot_warm_up_is_loaded_all_the_same(
    loader: Loader,
    cas: Cas,
    caplog: pytest.LogCaptureFixture,
    model: bytes,
    said: str,
) -> None:
    workload = cas.workload(wasm=component(), model=model)

    triple = await loader.load(workload, cas.folder)
    await triple.close()

    assert triple.ready
    assert said in caplog.text


async def test_a_slow_warm_up_is_cut(
    engine: ComponentEngine,
    gate: GatedBackend,
    cas: Cas,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loader = Loader(engine=engine, backend=gate, warmup_s=0)
    workload = cas.workload(wasm=guest(), limits=Limits(warmup_iterations=1000))

    triple = await loader.load(workload, cas.folder)
    await triple.close()
    loader.close()

    assert gate.runs == 0
    assert "warm_up.cut: digits: 0 of 1000 runs" in caplog.text


async def test_a_cancelled_load_stops_at_its_next_step_and_leaves_nothing(
    gated: Loader, gate: GatedBackend, cas: Cas
) -> None:
    workload = cas.workload(wasm=guest(), limits=Limits(warmup_iterations=1000))
    gate.hold()
    load = asyncio.create_task(gated.load(workload, cas.folder))
    await gate.held()

    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    gate.opened.set()
    await asyncio.to_thread(gated.close)

    assert gate.runs == 1
    assert gate.closed == 1
    assert not instance_threads()


async def test_a_file_that_the_disk_does_not_give_now_is_not_a_corrupt_one(
    loader: Loader, cas: Cas
) -> None:
    workload = cas.workload()
    path = cas.path(workload.model)
    path.unlink()
    path.mkdir()  # any reason but absence

    with pytest.raises(UnreadableError, match="cannot be read") as caught:
        await loader.load(workload, cas.folder)

    assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected a JSON object"),
        ('{"mean": NaN}', "expected JSON"),
        ('{"mean": 1e999}', "expected JSON"),
        (r'{"unit": "\ud800"}', "expected Unicode"),
        ('{"a": "%s"}' % ("x" * MAX_CONFIG_BYTES), f"at most {MAX_CONFIG_BYTES}"),
    ],
    ids=["torn", "list", "nan", "infinite", "half-a-pair", "large"],
)
async def test_a_configuration_that_no_component_can_read_is_refused(
    loader: Loader, cas: Cas, config: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        await loader.load(cas.workload(wasm=component(), config=config), cas.folder)

    assert caught.value.element == "digits/config"
    assert not instance_threads()


async def test_a_configuration_that_the_component_refuses_is_named(
    loader: Loader, cas: Cas
) -> None:
    refusing: Any = component(configure=REFUSED.format(case=0))

    with pytest.raises(ConfigError, match="guest!") as caught:
        await loader.load(cas.workload(wasm=refusing), cas.folder)

    assert caught.value.element == "digits/config"


async def test_an_unhealthy_component_is_loaded_and_not_ready(
    loader: Loader, cas: Cas, caplog: pytest.LogCaptureFixture
) -> None:
    ill = component(health=REFUSED.format(case=3))  # whatever case it chooses

    triple = await loader.load(cas.workload(wasm=ill), cas.folder)
    await triple.close()

    assert not triple.ready
    assert "workload.unhealthy: digits: health: guest!" in caplog.text


async def test_a_busy_component_stays_ready(
    gated: Loader, gate: GatedBackend, cas: Cas
) -> None:
    triple = await gated.load(cas.workload(wasm=ASKS_ITS_MODEL), cas.folder)
    gate.hold()
    requests = [asyncio.create_task(triple.infer(RAW, {})) for _ in range(70)]
    await gate.held()

    await triple._health.ask()  # the queue is full: it answers at once
    assert triple.ready
    assert triple.status(swap_micros=0).ready

    gate.opened.set()
    await asyncio.wait(requests)
    errors = [str(request.exception()) for request in requests]
    assert sum("at most 65 requests" in error for error in errors) == 5
    await triple.close()


async def test_a_component_that_falls_ill_is_seen_and_again_when_it_is_well(
    loader: Loader, cas: Cas, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # Well, ill, well, and so on.
    turns = f"""
        (global.set $kept (i32.xor (global.get $kept) (i32.const 1)))
        (if (i32.eqz (global.get $kept)) (then {REFUSED.format(case=4)} (return)))
        (i32.store8 (i32.const 2048) (i32.const 0)) (i32.const 2048)"""
    triple = await loader.load(cas.workload(wasm=component(health=turns)), cas.folder)

    seen = [triple.ready]
    for _ in range(2):
        await triple._health.ask()
        seen.append(triple.ready)
    await triple.close()

    assert seen == [True, False, True]
