# SPDX-License-Identifier: Apache-2.0
"""The supervisor's door to this process: RuntimeControl on a Unix socket.

Errors travel as a gRPC status whose trailing metadata carries the serialised Failure,
so that the supervisor reports exactly what was wrong with what. No call waits for a
request of a client.
"""

import importlib.metadata
import logging
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import grpc

from kedge_agent.errors import AgentError, LocalError, OutOfMemoryError
from kedge_agent.host.log import one_line
from kedge_agent.inference.base import Backend
from kedge_agent.runtime.generations import Generations
from kedge_wire.v1.report_pb2 import Failure
from kedge_wire.v1.runtime_pb2 import (
    ActivateResponse,
    DiscardResponse,
    GenerationRequest,
    PrepareRequest,
    PrepareResponse,
    StatusRequest,
    StatusResponse,
)
from kedge_wire.v1.runtime_pb2_grpc import RuntimeControlServicer

logger = logging.getLogger(__name__)

FAILURE_KEY: Final = "kedge-failure-bin"

MAX_MESSAGE_BYTES: Final = 3072
MAX_ELEMENT_BYTES: Final = 512
"""Trailing metadata above 8 KiB may be lost, and with it what was wrong; the encoding
makes it larger.
"""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")


class Control(RuntimeControlServicer):
    """Each call ends in an answer or in a Failure."""

    def __init__(self, generations: Generations, backend: Backend) -> None:
        self._generations: Final = generations
        self._facts: Final = StatusResponse.Facts(
            providers=backend.available_providers(), runtime_versions=_versions()
        )

    async def Prepare(  # noqa: N802 - the method's name on the wire
        self, request: PrepareRequest, context: Context
    ) -> PrepareResponse:
        millis = await _answer(
            self._generations.prepare(
                request.generation,
                list(request.workloads),
                cas=Path(request.cas_directory),
            ),
            context,
        )
        return PrepareResponse(prepare_millis=millis)

    async def Activate(  # noqa: N802
        self, request: GenerationRequest, context: Context
    ) -> ActivateResponse:
        workloads = await _answer(
            self._generations.activate(request.generation), context
        )
        return ActivateResponse(workloads=workloads)

    async def Revert(  # noqa: N802
        self, request: GenerationRequest, context: Context
    ) -> ActivateResponse:
        workloads = await _answer(self._generations.revert(request.generation), context)
        return ActivateResponse(workloads=workloads)

    async def Discard(  # noqa: N802
        self, request: GenerationRequest, context: Context
    ) -> DiscardResponse:
        await _answer(self._generations.discard(request.generation), context)
        return DiscardResponse()

    async def GetStatus(  # noqa: N802
        self, request: StatusRequest, context: Context
    ) -> StatusResponse:
        del request, context
        return StatusResponse(
            serving_generation=self._generations.serving_number,
            workloads=self._generations.status(),
            facts=self._facts,
        )


async def _answer(work: Awaitable[T], context: Context) -> T:
    try:
        return await work
    except AgentError as exc:
        await _abort(exc, context)
    except MemoryError as exc:
        await _abort(OutOfMemoryError(f"runtime: out of memory: {exc}"), context)
    except Exception as exc:  # the process's edge: a bug, reported as one
        logger.exception("control.failed")
        error = LocalError(f"runtime: unexpected {type(exc).__name__}: {exc}")
        await _abort(error, context)


async def _abort(error: AgentError, context: Context) -> NoReturn:
    failure = Failure(
        component="runtime",
        element=_cut(error.element, MAX_ELEMENT_BYTES),
        code=error.code,
        message=_cut(str(error), MAX_MESSAGE_BYTES),
    )
    logger.warning("control.refused: %s: %s", failure.element, one_line(str(error)))
    await context.abort(
        grpc.StatusCode[error.code],
        _cut(str(error), MAX_ELEMENT_BYTES),
        ((FAILURE_KEY, failure.SerializeToString()),),
    )
    raise AssertionError("abort returned")


def _cut(text: str, size: int) -> str:
    return text.encode(errors="replace")[:size].decode(errors="ignore")


def _versions() -> str:
    return ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("wasmtime", "onnxruntime")
    )
