# SPDX-License-Identifier: Apache-2.0
"""A runtime process without models: the real command line, control and sockets.

What it does with a generation stands in the `config` artifact of its workloads, so a
test chooses by the order it signs:

    {"fail": "prepare"}           refuse it            {"fail": "crash-prepare"}    die
    {"fail": "not-ready"}         activate, not ready  {"fail": "crash-activate"}   die
    {"fail": "crash-status"}      die when asked while it serves

Clients get one line, the serving generation and the configurations, over HTTP on the
inherited descriptor and as text on the inference socket.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import grpc

from kedge_agent.parent import die_with_parent
from kedge_agent.runtime_client import FAILURE_KEY
from kedge_wire.v1.report_pb2 import Failure, WorkloadStatus
from kedge_wire.v1.runtime_pb2 import (
    ActivateResponse,
    DiscardResponse,
    GenerationRequest,
    PrepareRequest,
    PrepareResponse,
    StatusRequest,
    StatusResponse,
)
from kedge_wire.v1.runtime_pb2_grpc import (
    RuntimeControlServicer,
    add_RuntimeControlServicer_to_server,
)

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    number: int
    configs: dict[str, dict[str, Any]]  # by workload
    request: PrepareRequest

    @property
    def faults(self) -> set[str]:
        return {str(config.get("fail")) for config in self.configs.values()}


class SimulatedRuntime(RuntimeControlServicer):
    """The state machine prepared, serving, previous. `die` ends the process.

    `refusals` are statuses by method, one for each of its next calls.
    """

    def __init__(self, *, die: Callable[[], None]) -> None:
        self._die = die
        self.refusals: dict[str, list[grpc.StatusCode]] = {}
        self.reset()

    def reset(self) -> None:
        """As after a start."""
        self.prepared: Loaded | None = None
        self.serving: Loaded | None = None
        self.previous: Loaded | None = None
        self.prepares: list[int] = []
        self.activated = asyncio.Event()

    async def Prepare(  # noqa: N802 - the method's name on the wire
        self, request: PrepareRequest, context: Context
    ) -> PrepareResponse:
        self.prepares.append(request.generation)
        await self._obey("Prepare", context)
        configs = {}
        for workload in request.workloads:
            for artifact in (workload.component, workload.model, workload.config):
                path = Path(request.cas_directory) / artifact.sha256
                data = path.read_bytes() if path.exists() else b""
                if hashlib.sha256(data).hexdigest() != artifact.sha256:
                    await _refuse(context, "DATA_LOSS", workload.name, "bytes differ")
            configs[workload.name] = json.loads(data)
        loaded = Loaded(number=request.generation, configs=configs, request=request)
        if "crash-prepare" in loaded.faults:
            await self._end()
        if "prepare" in loaded.faults:
            await _refuse(context, "INVALID_ARGUMENT", "digits", "no such operator")
        self.prepared = loaded
        return PrepareResponse(prepare_millis=1)

    async def Activate(  # noqa: N802
        self, request: GenerationRequest, context: Context
    ) -> ActivateResponse:
        if self.serving is None or self.serving.number != request.generation:
            if self.prepared is None or self.prepared.number != request.generation:
                await _refuse(context, "NOT_FOUND", "", "not prepared")
            if "crash-activate" in self.prepared.faults:
                await self._end()
            self.previous, self.serving = self.serving, self.prepared
            self.prepared = None
            self.activated.set()
        return ActivateResponse(workloads=self._statuses())

    async def Revert(  # noqa: N802
        self, request: GenerationRequest, context: Context
    ) -> ActivateResponse:
        await self._obey("Revert", context)
        if self.serving is not None and self.serving.number == request.generation:
            self.serving, self.previous = self.previous, None
        return ActivateResponse(workloads=self._statuses())

    async def Discard(  # noqa: N802
        self, request: GenerationRequest, context: Context
    ) -> DiscardResponse:
        del context
        if self.prepared is not None and self.prepared.number == request.generation:
            self.prepared = None
        if self.previous is not None and self.previous.number == request.generation:
            self.previous = None
        return DiscardResponse()

    async def GetStatus(  # noqa: N802
        self, request: StatusRequest, context: Context
    ) -> StatusResponse:
        del request, context
        if self.serving is not None and "crash-status" in self.serving.faults:
            await self._end()
        return StatusResponse(
            serving_generation=self.serving.number if self.serving else 0,
            workloads=self._statuses(),
            facts=StatusResponse.Facts(
                providers=["CPUExecutionProvider"], runtime_versions="simulated 1"
            ),
        )

    async def _obey(self, method: str, context: Context) -> None:
        if refusals := self.refusals.get(method):
            await context.abort(refusals.pop(0), "not today")

    async def _end(self) -> NoReturn:
        """Die without an answer."""
        self._die()
        await asyncio.Event().wait()
        raise AssertionError("alive")

    def line(self) -> str:
        """What a client is told."""
        serving = self.serving
        return json.dumps(
            {
                "generation": serving.number if serving else 0,
                "configs": serving.configs if serving else {},
                "pid": os.getpid(),
            }
        )

    def _statuses(self) -> list[WorkloadStatus]:
        if self.serving is None:
            return []
        return [
            WorkloadStatus(
                name=workload.name,
                tenant=workload.tenant,
                model_sha256=workload.model.sha256,
                ready=self.serving.configs[workload.name].get("fail") != "not-ready",
            )
            for workload in self.serving.request.workloads
        ]


async def serve_control(runtime: SimulatedRuntime, path: Path) -> grpc.aio.Server:
    server = grpc.aio.server()
    add_RuntimeControlServicer_to_server(runtime, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


async def _refuse(context: Context, code: str, element: str, message: str) -> NoReturn:
    failure = Failure(component="runtime", element=element, code=code, message=message)
    metadata = ((FAILURE_KEY, failure.SerializeToString()),)
    await context.abort(grpc.StatusCode[code], message, metadata)
    raise AssertionError("abort returned")


async def _main(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runtime = SimulatedRuntime(die=lambda: os.kill(os.getpid(), signal.SIGKILL))
    control = await serve_control(runtime, arguments.socket)

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await reader.readline()
            line = f"{runtime.line()}\n".encode()
            if b"HTTP/1" in request:
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(line)}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode())
            writer.write(line)
            await writer.drain()
        writer.close()

    if arguments.hold:
        await runtime.activated.wait()
    listener = socket.socket(fileno=arguments.http_fd)
    http = await asyncio.start_server(answer, sock=listener)
    inference = await asyncio.start_unix_server(answer, arguments.grpc_socket)
    async with http, inference:
        await stop.wait()
    await control.stop(grace=0.1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--http-fd", type=int, required=True)
    parser.add_argument("--grpc-socket", type=Path, required=True)
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--hold", action="store_true")
    arguments = parser.parse_args()
    if arguments.parent:
        die_with_parent(arguments.parent)
    asyncio.run(_main(arguments))


if __name__ == "__main__":
    main()
