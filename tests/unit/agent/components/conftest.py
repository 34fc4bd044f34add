# SPDX-License-Identifier: Apache-2.0
"""An engine, the shipped component, and a model whose answers are easy to compute."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kedge_agent.components.engine import CompiledComponent, ComponentEngine
from kedge_agent.components.pool import InstancePool
from kedge_agent.host.log import GuestLog
from kedge_agent.inference.base import LoadedModel
from kedge_agent.inference.onnx import OnnxBackend
from tests.unit.agent.components.guests import SHIPPED

PoolMaker = Callable[..., Awaitable[InstancePool]]


@pytest.fixture(scope="session")
def engine() -> Iterator[ComponentEngine]:
    engine = ComponentEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def shipped(engine: ComponentEngine) -> CompiledComponent:
    return engine.compile(SHIPPED.read_bytes())


@pytest.fixture(scope="session")
def model() -> Iterator[LoadedModel]:
    """Flattens `image`: [N,C,H,W] to `scores`: [N,C*H*W], of twelve values."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights"], ["scores"]),
        ],
        "identity",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.FLOAT, ["N", "C", "H", "W"]
            )
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 12])],
        [numpy_helper.from_array(np.eye(12, dtype=np.float32), "weights")],
    )
    model = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
    )
    onnx.checker.check_model(model)
    loaded = OnnxBackend().load(model.SerializeToString())
    yield loaded
    loaded.close()


@pytest.fixture
async def pools(
    engine: ComponentEngine, model: LoadedModel
) -> AsyncIterator[PoolMaker]:
    """Starts pools, and closes them after the test."""
    async with AsyncExitStack() as stack:

        async def start(
            component: CompiledComponent | bytes, *, config: str = "{}", **options: Any
        ) -> InstancePool:
            if isinstance(component, bytes):
                component = engine.compile(component)
            pool = InstancePool(
                component,
                models=options.pop("models", {"default": model}),
                config=config,
                log=GuestLog(tenant="acme", workload="camera"),
                **options,
            )
            stack.push_async_callback(pool.close)
            await pool.start()
            return pool

        yield start
