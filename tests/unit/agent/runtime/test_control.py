# SPDX-License-Identifier: Apache-2.0
"""RuntimeControl over its socket: every call ends in an answer or in a Failure."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from kedge_agent.errors import ModelError
from kedge_agent.runtime.control import FAILURE_KEY, Control
from kedge_agent.runtime.generations import Generations
from kedge_wire.v1.report_pb2 import Failure
from kedge_wire.v1.runtime_pb2 import (
    GenerationRequest,
    PrepareRequest,
    StatusRequest,
)
from kedge_wire.v1.runtime_pb2_grpc import (
    RuntimeControlStub,
    add_RuntimeControlServicer_to_server,
)
from tests.unit.agent.components.guests import guest
from tests.unit.agent.runtime.conftest import Cas, GatedBackend

if TYPE_CHECKING:  # the name is in the stubs only
    from kedge_wire.v1.runtime_pb2_grpc import RuntimeControlAsyncStub


@asynccontextmanager
async def connected(
    generations: Generations, gate: GatedBackend, folder: Path
) -> AsyncIterator["RuntimeControlAsyncStub"]:
    server = grpc.aio.server()
    add_RuntimeControlServicer_to_server(Control(generations, gate), server)
    server.add_insecure_port(f"unix:{folder}/control.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{folder}/control.sock") as channel:
        yield RuntimeControlStub(channel)
    await server.stop(grace=None)


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    metadata = dict(error.trailing_metadata() or ())
    content = metadata[FAILURE_KEY]
    assert isinstance(content, bytes)
    return Failure.FromString(content)


async def test_what_is_prepared_and_activated_serves_until_it_is_reverted(
    generations: Generations, gate: GatedBackend, cas: Cas
) -> None:
    workload = cas.workload(wasm=guest())
    async with connected(generations, gate, cas.folder) as control:
        for number in (1, 2):
            await control.Prepare(
                PrepareRequest(
                    generation=number,
                    workloads=[workload],
                    cas_directory=str(cas.folder),
                )
            )
            request = GenerationRequest(generation=number)
            activated = await control.Activate(request)
            assert [one.ready for one in activated.workloads] == [True]
        await control.Revert(GenerationRequest(generation=2))
        status = await control.GetStatus(StatusRequest())

    assert status.serving_generation == 1
    assert [one.name for one in status.workloads] == ["digits"]
    assert list(status.facts.providers) == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ZeroDivisionError("a bug"), "INTERNAL", "unexpected ZeroDivisionError: a bug"),
        (MemoryError("full"), "RESOURCE_EXHAUSTED", "out of memory: full"),
        (ModelError("é\ud800" * 9999), "INVALID_ARGUMENT", "é?é?é?"),
    ],
    ids=["bug", "memory", "long-and-strange"],
)
async def test_whatever_is_raised_arrives_as_a_failure(
    generations: Generations,
    gate: GatedBackend,
    cas: Cas,
    error: Exception,
    code: str,
    message: str,
) -> None:
    gate.error = error
    request = PrepareRequest(
        generation=1,
        workloads=[cas.workload(wasm=guest())],
        cas_directory=str(cas.folder),
    )
    async with connected(generations, gate, cas.folder) as control:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await control.Prepare(request)

    assert caught.value.code().name == code
    failure = failure_of(caught.value)
    assert (failure.component, failure.code) == ("runtime", code)
    assert message in failure.message


async def test_an_unexpected_error_leaves_a_traceback(
    generations: Generations,
    gate: GatedBackend,
    cas: Cas,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate.error = ZeroDivisionError("a bug")
    request = PrepareRequest(
        generation=1,
        workloads=[cas.workload(wasm=guest())],
        cas_directory=str(cas.folder),
    )
    async with connected(generations, gate, cas.folder) as control:
        with pytest.raises(grpc.aio.AioRpcError):
            await control.Prepare(request)

    assert "Traceback" in caplog.text
