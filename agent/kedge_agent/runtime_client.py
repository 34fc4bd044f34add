# SPDX-License-Identifier: Apache-2.0
"""The supervisor's side of RuntimeControl: typed calls to one incarnation of it.

Verified orders become wire messages here, and gRPC statuses become errors: what the
runtime refuses is a `RuntimeRefusedError` with the runtime's own words, everything else
a `RuntimeLostError`. Nothing is retried.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError

from kedge_agent.errors import AgentError, RuntimeLostError, RuntimeRefusedError
from kedge_agent.settings import Timing
from kedge_agent.trust.order import VerifiedArtifact, VerifiedOrder, VerifiedWorkload
from kedge_wire.statement import ArtifactKind
from kedge_wire.v1.order_pb2 import (
    Artifact,
    Envelope,
    InferencePolicy,
    Limits,
    Workload,
)
from kedge_wire.v1.report_pb2 import Failure
from kedge_wire.v1.runtime_pb2 import (
    GenerationRequest,
    PrepareRequest,
    StatusRequest,
    StatusResponse,
)
from kedge_wire.v1.runtime_pb2_grpc import RuntimeControlStub

FAILURE_KEY: Final = "kedge-failure-bin"

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),  # it is on this machine
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)
_LOST: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)
_KINDS: Final = {
    ArtifactKind.COMPONENT: Artifact.Kind.KIND_COMPONENT,
    ArtifactKind.MODEL: Artifact.Kind.KIND_MODEL,
    ArtifactKind.CONFIG: Artifact.Kind.KIND_CONFIG,
}

Q = TypeVar("Q")  # a request
A = TypeVar("A")  # its answer


class RuntimeClient:
    """Calls to one incarnation of the runtime."""

    def __init__(self, socket_path: Path, *, timing: Timing) -> None:
        self._timing = timing
        self._channel = grpc.aio.insecure_channel(
            f"unix:{socket_path}", options=_OPTIONS
        )
        self._stub = RuntimeControlStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def prepare(self, order: VerifiedOrder, *, cas_directory: Path) -> int:
        """Load `order` beside what serves; return the milliseconds it took.

        Raises:
            RuntimeRefusedError: The runtime refuses it, and says why.
            RuntimeLostError: The process died or does not answer.
        """
        request = PrepareRequest(
            generation=order.generation,
            workloads=[_workload(workload) for workload in order.workloads],
            cas_directory=str(cas_directory),
        )
        answer = await self._call(
            self._stub.Prepare, request, timeout_s=self._timing.prepare
        )
        return answer.prepare_millis

    async def activate(self, generation: int) -> None:
        """Make a prepared generation serve. Raises as `prepare` does."""
        await self._call(self._stub.Activate, GenerationRequest(generation=generation))

    async def revert(self, generation: int) -> None:
        """Undo the activation of `generation`. Raises as `prepare` does."""
        await self._call(self._stub.Revert, GenerationRequest(generation=generation))

    async def discard(self, generation: int) -> None:
        """Free a generation that does not serve. Raises as `prepare` does."""
        await self._call(self._stub.Discard, GenerationRequest(generation=generation))

    async def status(self) -> StatusResponse:
        """Ask what serves now. Raises as `prepare` does."""
        return await self._call(self._stub.GetStatus, StatusRequest())

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Q, A],
        request: Q,
        *,
        timeout_s: float | None = None,
    ) -> A:
        try:
            return await method(request, timeout=timeout_s or self._timing.control)
        except grpc.aio.AioRpcError as exc:
            raise _translated(exc, type(request).__name__) from exc
        except (
            grpc.aio.UsageError,
            asyncio.InvalidStateError,
            asyncio.CancelledError,
        ) as exc:
            # Closing a channel cancels its calls, which looks like a cancelled caller.
            task = asyncio.current_task()
            if isinstance(exc, asyncio.CancelledError) and task and task.cancelling():
                raise
            raise RuntimeLostError(
                f"runtime: expected an answer to {type(request).__name__}, found its "
                "channel closed",
                element="runtime",
            ) from exc


def _translated(exc: grpc.aio.AioRpcError, name: str) -> AgentError:
    failure = Failure()
    for key, value in exc.trailing_metadata() or ():
        if key == FAILURE_KEY and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                failure = Failure.FromString(value)
    if not failure.code and exc.code() in _LOST:
        return RuntimeLostError(
            f"runtime: expected an answer to {name}, found {exc.code().name}: "
            f"{exc.details()}",
            element="runtime",
        )
    return RuntimeRefusedError(
        failure.message or exc.details() or f"runtime: {name} failed",
        element=failure.element,
        component=failure.component or "runtime",
        status=failure.code or exc.code().name,
    )


def _workload(workload: VerifiedWorkload) -> Workload:
    limits = workload.limits
    return Workload(
        name=workload.name,
        tenant=workload.tenant,
        component=_artifact(workload.component),
        model=_artifact(workload.model),
        config=_artifact(workload.config),
        inference=InferencePolicy(
            providers=workload.providers, require_providers=workload.require_providers
        ),
        limits=Limits(
            component_memory_bytes=limits.component_memory_bytes,
            wall_time_ms=limits.wall_time_ms,
            pool_size=limits.pool_size,
            warmup_iterations=limits.warmup_iterations,
        ),
    )


def _artifact(artifact: VerifiedArtifact) -> Artifact:
    return Artifact(
        kind=_KINDS[artifact.kind],
        name=artifact.name,
        version=artifact.version,
        sha256=artifact.sha256,
        length=artifact.length,
        statement=Envelope.FromString(artifact.statement),
    )
